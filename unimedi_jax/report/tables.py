"""The result tables of a run, from the names that its metrics carry.

Names, as the evaluations' `scalars` give them behind a prefix (here `test`; `untrained` is the same
evaluation of the network before training):

    test/xray/zeroshot/<label>   test/xray/zeroshot/macro       (auroc.LabelAuc; also .../probe/...)
    test/xray/retrieval/i2t_r1   t2i_r1   chance_r1             (retrieval.recall)
    test/ct/slices/any/hit_rate  test/ct/slices/<label>/random_rate   (slices.HitRate)
    test/ct/slices/<label>/fixed_rate                           (slices.fixed_layers)
    test/gap/<pair>/distance     accuracy                       (gap.Gap)
    test/gap/<cloud>/separation                                 (gap.class_separation)

`<key>/low` and `<key>/high` bound its interval. Rows and columns without a number are left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unimedi_jax.report.content import Cell, Row, Table

MODALITIES = (("xray", "X-ray"), ("ct", "CT"))
KS = (1, 5, 10)
CLOUDS = {
    "xray_ct": "X-ray and CT images",
    "xray_xray_report": "X-rays and their reports",
    "ct_ct_report": "CTs and their reports",
    "images": "All images, by finding",
}
INTERVALS = "Small figures under a number are its 95 % bootstrap interval over cases."


def latest(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The value of `key` in the last line that has it, null being NaN; None if no line has it."""
    for line in reversed(metrics):
        if key in line:
            return float("nan") if line[key] is None else line[key]
    return None


def text(table: Table, metrics: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> str:
    """A table for the terminal; with `intervals` those of its numbers, where the metrics have them."""

    def words(cell: Cell | None) -> str:
        value = None if cell is None else latest(metrics, cell.key)
        if cell is None or value is None:
            return "-"
        found = f"{value:.{cell.digits}f}"
        low, high = (latest(metrics, f"{cell.key}/{end}") if intervals else None for end in ("low", "high"))
        if low is not None and high is not None:
            found += f" [{low:.{cell.digits}f}, {high:.{cell.digits}f}]"
        other = None if cell.beside is None else latest(metrics, cell.beside)
        return found if other is None else f"{found} ({cell.beside_name} {other:.{cell.digits}f})"

    lines = [list(table.columns), *([row.name, *map(words, row.cells)] for row in table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    body = ["  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([table.title, *(line.rstrip() for line in body)])


def result_tables(
    metrics: Sequence[Mapping[str, Any]], labels: Sequence[str], *, trained: str = "test", untrained: str = "untrained"
) -> list[Table]:
    """Overview, AUC per finding, retrieval, slices, gap; tables without a number are left out."""
    known = {key for line in metrics for key in line}
    tables = [
        _overview(trained, untrained),
        *(_findings(labels, key, name, trained, untrained) for key, name in MODALITIES),
        _retrieval(trained, untrained),
        _slices(labels, trained, untrained),
        _gap(sorted(known), trained, untrained),
    ]
    return [shown for table in tables if (shown := _measured(table, known)).rows]


def _overview(trained: str, untrained: str) -> Table:
    def row(key: str, name: str) -> Row:
        start = f"{trained}/{key}"
        return Row(
            name,
            (
                _against_untrained(f"{key}/zeroshot/macro", trained, untrained),
                _against_untrained(f"{key}/probe/macro", trained, untrained),
                Cell(f"{start}/retrieval/i2t_r5", f"{start}/retrieval/chance_r5", "chance"),
                Cell(f"{start}/slices/any/hit_rate", f"{start}/slices/any/random_rate", "random"),
            ),
        )

    return Table(
        "Held-out patients at a glance",
        ("", "Zero-shot AUC", "Linear-probe AUC", "Report retrieval R@5", "Slice hit rate"),
        [row(key, name) for key, name in MODALITIES],
        "AUC: mean over findings, 0.5 is guessing. Slice hit rate: share of CTs with a lesion in "
        f"which a chosen slice layer touches it. {INTERVALS}",
    )


def _findings(labels: Sequence[str], key: str, name: str, trained: str, untrained: str) -> Table:
    def row(label: str, title: str) -> Row:
        zero_shot = f"{trained}/{key}/zeroshot/{label}"
        return Row(
            title,
            (
                _against_untrained(f"{key}/zeroshot/{label}", trained, untrained),
                _against_untrained(f"{key}/probe/{label}", trained, untrained),
                Cell(f"{zero_shot}/positives", digits=0),
                Cell(f"{zero_shot}/negatives", digits=0),
            ),
        )

    rows = [row(label, label.replace("_", " ")) for label in labels]
    return Table(
        f"{name}: AUC by finding",
        ("Finding", "Zero-shot", "Linear probe", "Positive cases", "Negative cases"),
        [*rows, row("macro", "mean over findings")],
        "Zero-shot: similarity to the positive prompts minus similarity to the negative ones; no "
        "label was used. Linear probe: logistic regression on frozen features. A finding whose "
        "cases are all positive or all negative has no AUC and is not in the mean.",
    )


def _retrieval(trained: str, untrained: str) -> Table:
    directions = (("i2t", "image to report"), ("t2i", "report to image"))
    rows = [
        Row(
            f"{name}, {direction}",
            [
                Cell(f"{trained}/{key}/retrieval/{way}_r{k}", f"{trained}/{key}/retrieval/chance_r{k}", "chance")
                for k in KS
            ]
            + [Cell(f"{trained}/{key}/retrieval/pairs", digits=0)]
            + [Cell(f"{trained}/{key}/retrieval/distinct", digits=0)],
        )
        for key, name in MODALITIES
        for way, direction in directions
    ]
    return Table(
        "Report retrieval",
        ("", *(f"R@{k}" for k in KS), "Pairs", "Distinct reports"),
        rows,
        "Share of queries with a right answer among the first k of all held-out pairs. Identical "
        "reports are right answers to each other; chance is exact for these pairs.",
    )


def _slices(labels: Sequence[str], trained: str, untrained: str) -> Table:
    def row(label: str, title: str) -> Row:
        start = f"{trained}/ct/slices/{label}"
        hit = "ct/slices/" + label + "/hit_rate"
        return Row(
            title,
            (
                Cell(f"{start}/hit_rate", f"{start}/random_rate", "random"),
                Cell(f"{untrained}/{hit}", f"{start}/random_rate", "random"),
                Cell(f"{start}/fixed_rate"),
                Cell(f"{start}/cases", digits=0),
            ),
        )

    rows = [row(label, label.replace("_", " ")) for label in labels]
    return Table(
        "CT: do the chosen slices show the lesion?",
        ("Lesion", "Hit rate", "Untrained network", "Fixed layers", "CTs"),
        [*rows, row("any", "any finding")],
        "Random: exact rate of choosing as many layers blindly in the same CTs. CTs whose every "
        "layer or no layer holds the lesion are left out.",
    )


def _gap(known: Sequence[str], trained: str, untrained: str) -> Table:
    pattern = re.compile(rf"{re.escape(trained)}/gap/(.+)/(?:distance|accuracy|separation)")
    found = dict.fromkeys(match[1] for key in known if (match := pattern.fullmatch(key)))
    names = [name for name in CLOUDS if name in found] + [n for n in found if n not in CLOUDS]
    measures = ("distance", "accuracy", "separation")
    return Table(
        "Modality gap",
        ("Embeddings", "Centroid distance", "Told apart", "Separation of findings"),
        [
            Row(
                CLOUDS.get(name, name.replace("_", " ")),
                [_against_untrained(f"gap/{name}/{each}", trained, untrained) for each in measures],
            )
            for name in names
        ],
        "Distance between the centroids of the two normalised clouds (Liang et al. 2022); balanced "
        "accuracy of a linear classifier telling them apart (0.5: merged); mean silhouette of the "
        "findings (1: apart, 0: mixed).",
    )


def _against_untrained(key: str, trained: str, untrained: str) -> Cell:
    return Cell(f"{trained}/{key}", f"{untrained}/{key}", "untrained")


def _measured(table: Table, known: set[str]) -> Table:
    """The table without the rows and columns that hold no number."""

    def has(cell: Cell | None) -> bool:
        return cell is not None and cell.key in known

    rows = [row for row in table.rows if any(map(has, row.cells))]
    width = len(table.columns) - 1
    columns = [i for i in range(width) if any(has(row.cells[i]) for row in rows)]
    return table._replace(
        columns=(table.columns[0], *(table.columns[1 + i] for i in columns)),
        rows=[Row(row.name, [row.cells[i] for i in columns]) for row in rows],
    )
