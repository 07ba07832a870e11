"""Which cases of a split stand on a run's page: the best, the median and the worst by a number that the page names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unimedi_jax.inference import features
from unimedi_jax.metrics import ranking

FIRST = 3  # cases of a split that gives no number to go by


class Picked(NamedTuple):
    """A row of a split and why it was picked."""

    row: int
    reason: str  # "median of 61: attention AUC 0.71"


class Examples(NamedTuple):
    """Cases for the page: those of the pictures, those of the retrieved reports, and the records of both by row."""

    cases: tuple[Picked, ...] = ()
    queries: tuple[Picked, ...] = ()
    records: Mapping[int, dict[str, Any]] = {}  # `features.examples`

    @property
    def rows(self) -> list[int]:
        """All of them once, in order."""
        return sorted({each.row for each in (*self.cases, *self.queries)})


def pick(part: features.EmbeddedSplit, scores: np.ndarray | None) -> tuple[Picked, ...]:
    """Cases by how well the attention finds the marked lesion, else by the zero-shot `scores` (n, c) of their findings.

    Without either they are the first of the split, whatever they show.
    """
    if part.attention_auc is not None and not np.isnan(part.attention_auc).all():
        return _ranked(part.attention_auc, "attention AUC {:.2f}")
    values = np.full(len(part.z), np.nan) if scores is None else ranking.finding_auc(scores, part.labels)
    if not np.isnan(values).all():
        return _ranked(values, "zero-shot AUC {:.2f}")
    return tuple(
        Picked(row, f"number {row + 1} of {len(values)}: nothing to rank by") for row in range(len(values))[:FIRST]
    )


def pick_queries(part: features.EmbeddedSplit) -> tuple[Picked, ...]:
    """Images by the place of their own report among all that could be retrieved; none without a joint space."""
    if part.z_report is None:
        return ()
    places = ranking.report_rank(part.z, part.z_report, part.reports)
    return _ranked(-places.astype(float), "its report comes at place {:.0f}")


def _ranked(values: np.ndarray, text: str) -> tuple[Picked, ...]:
    count = int((~np.isnan(values)).sum())
    rows = ranking.picked(values).items()
    return tuple(Picked(row, f"{rank} of {count}: {text.format(abs(values[row]))}") for rank, row in rows)
