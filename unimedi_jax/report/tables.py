"""The result tables of a run, from the names that its metrics carry.

Names, as the evaluations' `scalars` give them behind a prefix (here `test`; `untrained` is the same
evaluation of the network before training):

    test/xray/zeroshot/<label>   test/xray/zeroshot/macro       (auroc.LabelAuc; also .../prompts/... and .../probe/...)
    test/xray/retrieval/i2t_r1   t2i_r1   chance_r1             (retrieval.recall)
    test/ct/slices/any/hit_rate  test/ct/slices/<label>/random_rate   (slices.HitRate)
    test/ct/slices/<label>/fixed_rate                           (slices.fixed_rate)
    test/ct/slices/any/layer_share                              (slices.layer_share)
    test/gap/<pair>/distance     accuracy                       (gap.Gap)
    test/gap/<cloud>/separation                                 (gap.class_separation)
    test/gap/xray_ct_cls/...     test/gap/images_cls/separation (the same on CLS)

`<key>/low` and `<key>/high` bound its interval. Rows and columns without a number are left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unimedi_jax.metrics import label_keys
from unimedi_jax.report.content import Cell, Number, Row, Table

MODALITIES = {"xray": "X-ray", "ct": "CT"}
KS = (1, 5, 10)
CLOUDS = {
    "xray_ct": "X-ray and CT images",
    "xray_ct_cls": "X-ray and CT images, CLS",
    "xray_xray_report": "X-rays and their reports",
    "ct_ct_report": "CTs and their reports",
    "images": "All images, by finding",
    "images_cls": "All images, by finding, CLS",
}
MEASURES = ("distance", "accuracy", "separation")
GAP = re.compile(rf"test/gap/(.+)/(?:{'|'.join(MEASURES)})")
Line = Mapping[str, Any]  # of metrics.jsonl
INTERVALS = "Small figures under a number are its 95 % bootstrap interval over cases."


def final(metrics: Sequence[Line]) -> Line | None:
    """The last line with numbers of test patients, which marks a run as finished; None where there is none."""
    return next((line for line in reversed(metrics) if any(key.startswith("test/") for key in line)), None)


def latest(metrics: Sequence[Line], key: str) -> float | None:
    """The value of `key` in the last line that has it, null being NaN; None if no line has it."""
    for line in reversed(metrics):
        if key in line:
            return float("nan") if line[key] is None else line[key]
    return None


def numbers(cell: Cell | None, metrics: Sequence[Line]) -> dict[str, Number]:
    """What a cell shows: its `value` and, where the metrics have them, `low` and `high` of its interval and `beside`.

    Empty where the metrics have no value.
    """
    if cell is None or latest(metrics, cell.key) is None:
        return {}
    keys = {"value": cell.key, "low": f"{cell.key}/low", "high": f"{cell.key}/high", "beside": cell.beside}
    values = {place: (key, latest(metrics, key)) for place, key in keys.items() if key}
    return {place: Number(key, value, cell.digits) for place, (key, value) in values.items() if value is not None}


def text(table: Table, metrics: Sequence[Line], *, intervals: bool = False) -> str:
    """A table for the terminal; with `intervals` those of its numbers, where the metrics have them."""

    def words(cell: Cell | None) -> str:
        shown = {place: number.text for place, number in numbers(cell, metrics).items()}
        result = shown.get("value", "-")
        if intervals and {"low", "high"} <= shown.keys():
            result += f" [{shown['low']}, {shown['high']}]"
        if "beside" in shown:
            result += f" ({cell.beside_name} {shown['beside']})"
        return result

    return f"{table.title}\n" + aligned([table.columns, *([row.name, *map(words, row.cells)] for row in table.rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many words as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def result_tables(metrics: Sequence[Line], labels: Sequence[str]) -> list[Table]:
    """Overview, AUC per finding, retrieval, slices, gap; tables without a number are left out."""
    known = {key for line in metrics for key in line}
    findings = {key: label.replace("_", " ") for key, label in zip(label_keys.of(labels), labels, strict=True)}
    by_finding = [_findings(findings, modality) for modality in MODALITIES]
    tables = [_overview(), *by_finding, _retrieval(), _slices(findings), _gap(sorted(known))]
    return [measured for table in tables if (measured := _measured(table, known)).rows]


def _overview() -> Table:
    rows = []
    for key, name in MODALITIES.items():
        recall = _above(f"{key}/retrieval/i2t_r5", f"{key}/retrieval/chance_r5", "chance")
        hit_rate = _above(f"{key}/slices/any/hit_rate", f"{key}/slices/any/random_rate", "random")
        rows.append(Row(name, (_trained(f"{key}/zeroshot/macro"), _trained(f"{key}/probe/macro"), recall, hit_rate)))
    return Table(
        "Held-out patients at a glance",
        ("", "Zero-shot AUC", "Linear-probe AUC", "Report retrieval R@5", "Slice hit rate"),
        rows,
        "AUC: mean over findings; 0.5 is guessing. Slice hit rate: share of the CTs with a lesion in which a chosen "
        f"slice layer touches it. {INTERVALS}",
    )


def _findings(findings: Mapping[str, str], modality: str) -> Table:
    rows = []
    for finding, name in {**findings, "macro": "mean over findings"}.items():
        zeroshot, prompts, probe = (f"{modality}/{task}/{finding}" for task in ("zeroshot", "prompts", "probe"))
        counts = [_count(f"{zeroshot}/{side}") for side in ("positives", "negatives")]
        rows.append(Row(name, [_trained(zeroshot), _trained(prompts), _trained(probe), *counts]))
    return Table(
        f"{MODALITIES[modality]}: AUC by finding",
        ("Finding", "Zero-shot", "Prompts on reports", "Linear probe", "Positive cases", "Negative cases"),
        rows,
        "Zero-shot: similarity to prompts that assert the finding, minus that to prompts that deny it or assert other "
        "findings (`evals.score`), without any label. Prompts on reports: the same score of the reports themselves, "
        "the most that these prompts can give. "
        "Linear probe: logistic regression on frozen features. A finding whose cases are all positive or all negative "
        "has no AUC and is not part of the mean.",
    )


def _retrieval() -> Table:
    rows = []
    for modality, name in MODALITIES.items():
        start = f"{modality}/retrieval"
        counts = [_count(f"{start}/pairs"), _count(f"{start}/distinct")]
        for way, direction in (("i2t", "image to report"), ("t2i", "report to image")):
            recalls = [_above(f"{start}/{way}_r{k}", f"{start}/chance_r{k}", "chance") for k in KS]
            rows.append(Row(f"{name}, {direction}", [*recalls, *counts]))
    return Table(
        "Report retrieval",
        ("", *(f"R@{k}" for k in KS), "Pairs", "Distinct reports"),
        rows,
        "Share of queries with a correct match among the first k of all held-out pairs. Identical reports are correct "
        "matches of each other; chance is exact for these pairs.",
    )


def _slices(findings: Mapping[str, str]) -> Table:
    rows = []
    for finding, name in {**findings, "any": "any finding"}.items():
        start = f"ct/slices/{finding}"
        hit_rate = _above(f"{start}/hit_rate", f"{start}/random_rate", "random")
        untrained = hit_rate._replace(key=f"untrained/{start}/hit_rate")
        share = _trained(f"{start}/layer_share") if finding == "any" else None
        cells = (hit_rate, Cell(f"test/{start}/fixed_rate"), untrained, share, _count(f"{start}/cases"))
        rows.append(Row(name, cells))
    return Table(
        "CT: do the chosen slices show the lesion?",
        ("Lesion", "Hit rate", "Best fixed layers", "Untrained network", "Scores due to the layer", "CTs"),
        rows,
        "Random: the exact hit rate of choosing as many layers at random in the same CTs. Best fixed layers: as many "
        "layers, the same in every CT, that hit most validation CTs with that lesion: what position alone is worth. "
        "Scores due to the layer: share of the variance of all slice scores that the layer explains; 1 is a choice by "
        "position alone. CTs whose layers all hold the lesion, or none of whose layers does, are left out.",
    )


def _gap(known: Sequence[str]) -> Table:
    measured = dict.fromkeys(match[1] for key in known if (match := GAP.fullmatch(key)))
    names = [*(name for name in CLOUDS if name in measured), *(name for name in measured if name not in CLOUDS)]
    rows = [
        Row(CLOUDS.get(name, name.replace("_", " ")), [_trained(f"gap/{name}/{measure}") for measure in MEASURES])
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


def _above(key: str, reference: str, name: str) -> Cell:
    """A number of the trained network beside the one that it has to exceed."""
    return Cell(f"test/{key}", f"test/{reference}", name)


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
