"""From when on a score counts as present, chosen on validation cases."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unimedi_jax.metrics import detection

UNDECIDED = 0.5  # where validation has no positives or no negatives
OVERLAP = 0.5  # IoU from which a box hits


class Threshold(NamedTuple):
    """Scores of at least `value` count as present; how that went on the cases that it was chosen on."""

    value: float = UNDECIDED
    sensitivity: float = float("nan")
    specificity: float = float("nan")
    positives: int = 0
    negatives: int = 0

    def facts(self) -> dict[str, float | int | None]:
        """As JSON, which has no not-a-number."""
        return {name: None if np.isnan(value) else value for name, value in self._asdict().items()}


def youden(scores: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]) -> Threshold:
    """The threshold of the largest sensitivity + specificity (Youden's J, Cancer 1950), whatever the prevalence.

    It lies in the middle between two neighbouring scores, of several equally good ones the lowest. Targets are 0, 1 or
    NaN (skipped); without both classes it is 0.5.
    """
    return _best(scores, targets, np.add, highest=False)


def nearest_corner(scores: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]) -> Threshold:
    """The threshold whose point of the ROC curve is nearest to the corner where both rates are 1, as in CT-CLIP's code.

    Of several equally near ones the highest, which is infinite where it calls no case. All else is as of `youden`.
    """

    def nearness(sensitivity: Float[np.ndarray, " v"], specificity: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
        return -np.hypot(1 - sensitivity, 1 - specificity)

    return _best(scores, targets, nearness, highest=True)


def _best(
    scores: Float[np.ndarray, " n"],
    targets: Float[np.ndarray, " n"],
    merit: Callable[[Float[np.ndarray, " v"], Float[np.ndarray, " v"]], Float[np.ndarray, " v"]],
    *,
    highest: bool,
) -> Threshold:
    """The cut with the largest `merit(sensitivity, specificity)`, of equal ones the highest or the lowest."""
    known = ~np.isnan(targets)
    scores, present = np.asarray(scores, np.float64)[known], targets[known] == 1
    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives or np.isnan(scores).any():
        return Threshold(positives=positives, negatives=negatives)
    values, hits, called = (np.append(*ends) for ends in zip(_cuts(scores, present), (np.inf, 0, 0), strict=True))
    sensitivity, specificity = hits / positives, 1 - (called - hits) / negatives
    merits = np.round(merit(sensitivity, specificity), 12)
    best = int(np.flatnonzero(merits == merits.max())[-1 if highest else 0])
    return Threshold(float(values[best]), float(sensitivity[best]), float(specificity[best]), positives, negatives)


def best_f1(cases: Sequence[detection.Case]) -> float:
    """The score from which boxes, matched at IoU 0.5, have the best F1; 0.5 where no box hits."""
    parts = [detection.hits(case, (OVERLAP,)) for case in cases]
    truths = sum(len(case.truth) for case in cases)
    scores = np.concatenate([scores for scores, _ in parts]) if parts else np.zeros(0)
    hit: Bool[np.ndarray, " n"] = np.concatenate([matched[0] for _, matched in parts]) if parts else np.zeros(0, bool)
    if not hit.any():
        return UNDECIDED
    values, hits, called = _cuts(scores, hit)
    return float(values[int(np.argmax(2 * hits / (called + truths)))])


def _cuts(
    scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " v"], Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """All ways to divide scores, from the lowest on: the cut, how many `right` ones and how many at all reach it.

    The first cut is the lowest score, the others lie in the middle between neighbouring scores.
    """
    distinct, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    hits, called = (
        np.bincount(place, weights, minlength=len(distinct))[::-1].cumsum()[::-1] for weights in (right, None)
    )
    cuts = np.concatenate([distinct[:1], (distinct[1:] + distinct[:-1]) / 2])
    return cuts, hits.astype(int), called.astype(int)
