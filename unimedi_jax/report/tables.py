"""The result tables of a run, from the names that its metrics carry.

Names, as the evaluations' `scalars` give them behind a prefix (here `test`; `untrained` is the same
evaluation of the network before training). A further set's have its name behind the modality's, as in
`test/xray:mine/...` (input/places.py):

    test/xray/zeroshot/<label>   test/xray/zeroshot/macro       (auroc.LabelAuc; also .../prompts/... and .../probe/...)
    test/xray/zeroshot/macro10                                  (over labels with 10 positives and negatives or more)
    test/xray/retrieval/i2t_r1   t2i_r1   chance_r1             (retrieval.recall)
    test/ct/slices/any/hit_rate  test/ct/slices/<label>/random_rate   (slices.HitRate)
    test/ct/slices/<label>/fixed_rate                           (slices.fixed_rate)
    test/ct/slices/any/layer_share                              (slices.layer_share)
    test/gap/<cloud>_<cloud>/distance   accuracy                (gap.Gap)
    test/gap/<cloud>/separation                                 (gap.class_separation)
    test/gap/xray_ct_cls/...     test/gap/images_cls/separation (the same on CLS)

`<key>/low` and `<key>/high` bound its interval. Rows and columns without a number are left out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unimedi_jax.input.places import Place
from unimedi_jax.metrics import auroc, label_keys
from unimedi_jax.report.content import Cell, Number, Row, Shown, Table

KS = (1, 5, 10)
MEASURES = ("distance", "accuracy", "separation")
GAP = re.compile(rf"test/gap/(.+)/(?:{'|'.join(MEASURES)})")
Line = Mapping[str, Any]  # of metrics.jsonl
INTERVALS = "Small figures under a number are its 95 % bootstrap interval over patients."
FEW = (
    f"Grey: an AUC of fewer than {auroc.FEWEST} positive or negative cases, which says little and is not among the "
    "numbers at a glance."
)


def final(metrics: Sequence[Line]) -> Line | None:
    """The last line with numbers of test patients, which marks a run as finished; None where there is none."""
    return next((line for line in reversed(metrics) if any(key.startswith("test/") for key in line)), None)


def latest(metrics: Sequence[Line], key: str) -> float | None:
    """The value of `key` in the last line that has it, null being NaN; None if no line has it."""
    for line in reversed(metrics):
        if key in line:
            return float("nan") if line[key] is None else line[key]
    return None


def shown(cell: Cell | None, metrics: Sequence[Line]) -> Shown:
    """What a cell shows: its number and, where the metrics have them, interval, the number beside it, and marks."""
    if cell is None or latest(metrics, cell.key) is None:
        return Shown({})
    keys = {"value": cell.key, "low": f"{cell.key}/low", "high": f"{cell.key}/high", "beside": cell.beside}
    values = {place: (key, latest(metrics, key)) for place, key in keys.items() if key}
    numbers = {place: Number(key, value, cell.digits) for place, (key, value) in values.items() if value is not None}
    chance = latest(metrics, cell.chance) if isinstance(cell.chance, str) else cell.chance
    below = chance is not None and numbers["value"].value < chance
    return Shown(numbers, below, _few(cell, metrics) if math.isfinite(numbers["value"].value) else None)


def _few(cell: Cell, metrics: Sequence[Line]) -> dict[str, Number] | None:
    """The cases behind an AUC, where there are too few of them."""
    sides = {"positive": f"{cell.counts}/positives", "negative": f"{cell.counts}/negatives"}
    counts = {side: (key, latest(metrics, key)) for side, key in sides.items()}
    known = {side: Number(key, count, digits=0) for side, (key, count) in counts.items() if count is not None}
    return known if len(known) == len(sides) and min(each.value for each in known.values()) < auroc.FEWEST else None


def text(table: Table, metrics: Sequence[Line], *, intervals: bool = False) -> str:
    """A table for the terminal; with `intervals` those of its numbers, where the metrics have them."""

    def words(cell: Cell | None) -> str:
        content = shown(cell, metrics)
        texts = {place: number.text for place, number in content.numbers.items()}
        result = texts.get("value", "-")
        if intervals and {"low", "high"} <= texts.keys():
            result += f" [{texts['low']}, {texts['high']}]"
        remarks = ["below chance"] if content.below_chance else []
        remarks += ["few cases"] if content.few else []
        remarks += [f"{cell.beside_name} {texts['beside']}"] if "beside" in texts else []
        return result + (f" ({', '.join(remarks)})" if remarks else "")

    return f"{table.title}\n" + aligned([table.columns, *([row.name, *map(words, row.cells)] for row in table.rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many words as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def result_tables(metrics: Sequence[Line], places: Sequence[Place]) -> list[Table]:
    """Overview, AUC per finding, retrieval, slices, gap; tables without a number are left out."""
    known = {key for line in metrics for key in line}
    by_finding = [_findings(place) for place in places]
    chosen = [_slices(place) for place in places if place.modality == "ct"]
    tables = [_overview(places), *by_finding, _retrieval(places), *chosen, _gap(sorted(known), places)]
    return [measured for table in tables if (measured := _measured(table, known)).rows]


def _overview(places: Sequence[Place]) -> Table:
    rows = []
    for place in places:
        key = place.name
        recall = _above(f"{key}/retrieval/i2t_r5", f"{key}/retrieval/chance_r5", "chance")
        hit_rate = _above(f"{key}/slices/any/hit_rate", f"{key}/slices/any/random_rate", "random")
        aucs = (_auc(f"{key}/{task}/macro10") for task in ("zeroshot", "probe"))
        rows.append(Row(place.title, (*aucs, recall, hit_rate)))
    return Table(
        "Held-out patients at a glance",
        ("", "Zero-shot AUC", "Linear-probe AUC", "Report retrieval R@5", "Slice hit rate"),
        rows,
        f"AUC: mean over the findings with at least {auroc.FEWEST} positive and {auroc.FEWEST} negative cases, n/a "
        "where there is none; 0.5 is guessing. Below chance: guessing does better. Slice hit rate: share of the CTs "
        f"with a lesion in which a chosen slice layer touches it. {INTERVALS}",
    )


def _names(place: Place) -> dict[str, str]:
    """The findings of a set as they are shown, by what stands for them in names of metrics."""
    return {key: label.replace("_", " ") for key, label in zip(label_keys.of(place.labels), place.labels, strict=True)}


def _findings(place: Place) -> Table:
    rows = []
    means = {"macro": "mean over findings", "macro10": "mean over findings with enough cases"}
    for finding, name in {**_names(place), **means}.items():
        zeroshot, prompts, probe = (f"{place.name}/{task}/{finding}" for task in ("zeroshot", "prompts", "probe"))
        counts = [_count(f"{zeroshot}/{side}") for side in ("positives", "negatives")]
        rows.append(Row(name, [_auc(zeroshot), _auc(prompts), _auc(probe), *counts]))
    return Table(
        f"{place.title}: AUC by finding",
        ("Finding", "Zero-shot", "Prompts on reports", "Linear probe", "Positive cases", "Negative cases"),
        rows,
        "Zero-shot: similarity to prompts that assert the finding, minus that to prompts that deny it or assert other "
        "findings (`evals.score`), without any label. Prompts on reports: the same score of the reports themselves, "
        "the most that these prompts can give. "
        "Linear probe: logistic regression on frozen features. A finding whose cases are all positive or all negative "
        f"has no AUC and is not part of the mean. {FEW}",
    )


def _retrieval(places: Sequence[Place]) -> Table:
    rows = []
    for place in places:
        start = f"{place.name}/retrieval"
        counts = [_count(f"{start}/pairs"), _count(f"{start}/distinct")]
        for way, direction in (("i2t", "image to report"), ("t2i", "report to image")):
            recalls = [_above(f"{start}/{way}_r{k}", f"{start}/chance_r{k}", "chance") for k in KS]
            rows.append(Row(f"{place.title}, {direction}", [*recalls, *counts]))
    return Table(
        "Report retrieval",
        ("", *(f"R@{k}" for k in KS), "Pairs", "Distinct reports"),
        rows,
        "Share of queries with a correct match among the first k of all held-out pairs. Identical reports are correct "
        "matches of each other; chance is exact for these pairs.",
    )


def _slices(place: Place) -> Table:
    rows = []
    for finding, name in {**_names(place), "any": "any finding"}.items():
        start = f"{place.name}/slices/{finding}"
        hit_rate = _above(f"{start}/hit_rate", f"{start}/random_rate", "random")
        untrained = hit_rate._replace(key=f"untrained/{start}/hit_rate")
        share = _trained(f"{start}/layer_share") if finding == "any" else None
        cells = (hit_rate, Cell(f"test/{start}/fixed_rate"), untrained, share, _count(f"{start}/cases"))
        rows.append(Row(name, cells))
    return Table(
        f"{place.title}: do the chosen slices show the lesion?",
        ("Lesion", "Hit rate", "Best fixed layers", "Untrained network", "Scores due to the layer", "CTs"),
        rows,
        "Random: the exact hit rate of choosing as many layers at random in the same CTs. Best fixed layers: as many "
        "layers, the same in every CT, that hit most validation CTs with that lesion: what position alone is worth. "
        "Scores due to the layer: share of the variance of all slice scores that the layer explains; 1 is a choice by "
        "position alone. CTs whose layers all hold the lesion, or none of whose layers does, are left out.",
    )


def _clouds(places: Sequence[Place]) -> dict[str, str]:
    """The names of gaps, as the evaluations give them, and what they are."""
    pairs = [(a, b) for a in places for b in places if (a.modality, b.modality) == ("xray", "ct")]
    between = {f"{a.name}_{b.name}": f"{a.title} and {b.title} images" for a, b in pairs}
    reports = {f"{place.name}_{place.name}_report": f"{place.plural} and their reports" for place in places}
    images = {"images": "All images, by finding"}
    on_cls = [{f"{key}_cls": f"{name}, CLS" for key, name in clouds.items()} for clouds in (between, images)]
    return between | on_cls[0] | reports | images | on_cls[1]


def _gap(known: Sequence[str], places: Sequence[Place]) -> Table:
    clouds = _clouds(places)
    measured = dict.fromkeys(match[1] for key in known if (match := GAP.fullmatch(key)))
    names = [*(name for name in clouds if name in measured), *(name for name in measured if name not in clouds)]
    rows = [
        Row(clouds.get(name, name.replace("_", " ")), [_trained(f"gap/{name}/{measure}") for measure in MEASURES])
        for name in names
    ]
    return Table(
        "Modality gap",
        ("Embeddings", "Centroid distance", "Modality classification accuracy", "Separation of findings"),
        rows,
        "Distance between the centroids of the two normalised clouds (Liang et al. 2022); balanced accuracy of a "
        "linear classifier of the modality (0.5: the clouds are merged); mean silhouette of the findings (1: separate, "
        "0: mixed). Embeddings lie in the joint space, or where a row says so are the encoder's CLS: BatchNorms by "
        "modality equalise the gap of the joint space by construction, and not that of CLS.",
    )


def _trained(key: str) -> Cell:
    """A number of the trained network beside that of the untrained one."""
    return Cell(f"test/{key}", f"untrained/{key}", "untrained")


def _auc(key: str) -> Cell:
    """The same of an AUC, with the cases behind it."""
    return _trained(key)._replace(chance=auroc.CHANCE, counts=f"test/{key}")


def _above(key: str, reference: str, name: str) -> Cell:
    """A number of the trained network beside the one that it has to exceed."""
    return Cell(f"test/{key}", f"test/{reference}", name, chance=f"test/{reference}")


def _count(key: str) -> Cell:
    return Cell(f"test/{key}", digits=0)


def _measured(table: Table, known: set[str]) -> Table:
    """The table without the rows and columns that hold no number."""

    def has(cell: Cell | None) -> bool:
        return cell is not None and cell.key in known

    rows = [row for row in table.rows if any(map(has, row.cells))]
    places = [i for i in range(len(table.columns) - 1) if any(has(row.cells[i]) for row in rows)]
    columns = (table.columns[0], *(table.columns[1 + i] for i in places))
    return table._replace(columns=columns, rows=[Row(row.name, [row.cells[i] for i in places]) for row in rows])
