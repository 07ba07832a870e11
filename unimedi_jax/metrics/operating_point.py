"""CT-CLIP's other numbers of zero-shot classification: accuracy, weighted F1 and precision at a point of the ROC curve.

It is the one nearest to the corner of no errors, chosen for each label on the very cases that are measured, as in its
evaluation (`find_threshold` of bootstrap_values.py), which flatters. CT-CLIP tries 100 even cuts of the softmax over
the pair of prompts, at the temperature that it has learnt; here every cut between two scores is tried.
"""

import numpy as np
from jaxtyping import Bool, Float

from unimedi_jax.metrics import thresholds, vectors

KINDS = ("accuracy", "f1_weighted", "precision")


def measure(scores: Float[np.ndarray, "n c"], targets: Float[np.ndarray, "n c"]) -> dict[str, float]:
    """`point/<kind>`: the mean of each of KINDS over the labels that have both classes; targets are 1, 0 or NaN."""
    columns = []
    for score, target in zip(scores.T, targets.T, strict=True):
        known = ~np.isnan(target)
        chosen = thresholds.nearest_corner(score, target)
        if chosen.positives and chosen.negatives:
            columns.append(_of_label(score[known] >= chosen.value, target[known] == 1))
    table = np.array(columns).reshape(-1, len(KINDS))
    return {f"point/{kind}": vectors.nan_mean(column) for kind, column in zip(KINDS, table.T, strict=True)}


def _of_label(called: Bool[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Accuracy, F1 of both classes weighted by their cases, precision of presence (0 where nothing is called)."""
    f1 = [_f1(called == side, present == side) for side in (True, False)]
    weighted = np.average(f1, weights=[present.sum(), (~present).sum()])
    return float((called == present).mean()), float(weighted), float((called & present).sum() / max(called.sum(), 1))


def _f1(called: Bool[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> float:
    return 2 * (called & present).sum() / max(called.sum() + present.sum(), 1)
