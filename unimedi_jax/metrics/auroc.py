"""Area under the ROC curve per label, by ranks, with unknown labels skipped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unimedi_jax.metrics import bootstrap, label_keys

INVERTED_BELOW = 0.4  # zero-shot: the prompt pair may be the wrong way round
CHANCE = 0.5
FEWEST = 10  # positives, and negatives: an AUC of fewer says little, and is part of no headline


class LabelAuc(NamedTuple):
    """AUC of c labels. `macro` is the mean over the labels that have one, `macro10` over those with enough cases."""

    per_label: Float[np.ndarray, " c"]  # NaN: a class is absent among the known labels
    macro: float
    positives: Int[np.ndarray, " c"]
    negatives: Int[np.ndarray, " c"]
    low: Float[np.ndarray, " c"]  # 95 % interval per label, NaN without resamples
    high: Float[np.ndarray, " c"]
    macro_low: float
    macro_high: float
    macro10: float  # NaN: no label has FEWEST positives and FEWEST negatives
    macro10_low: float
    macro10_high: float

    @property
    def enough(self) -> Bool[np.ndarray, " c"]:
        """Which labels have FEWEST positives and FEWEST negatives."""
        return enough(self.positives, self.negatives)

    @property
    def undefined(self) -> int:
        """How many labels had no AUC and are not in `macro`."""
        return int(np.isnan(self.per_label).sum())

    def scalars(self, names: Sequence[str]) -> dict[str, float]:
        """`<key>`, `<key>/positives`, `<key>/negatives` of a label's key, `macro`, `macro10`, `undefined`, intervals.

        `macro10/findings` counts the labels in `macro10`.
        """
        result = {"macro": self.macro, "macro10": self.macro10, "undefined": float(self.undefined)}
        result["macro10/findings"] = float(self.enough.sum())
        for mean, low, high in (
            ("macro", self.macro_low, self.macro_high),
            ("macro10", self.macro10_low, self.macro10_high),
        ):
            if not np.isnan(low):
                result |= {f"{mean}/low": low, f"{mean}/high": high}
        columns = zip(
            label_keys.of(names), self.per_label, self.positives, self.negatives, self.low, self.high, strict=True
        )
        for name, auc, positives, negatives, low, high in columns:
            result |= {name: float(auc), f"{name}/positives": float(positives), f"{name}/negatives": float(negatives)}
            if not np.isnan(low):
                result |= {f"{name}/low": float(low), f"{name}/high": float(high)}
        return result


def auroc(scores: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney U).

    Targets are 0, 1 or NaN (skipped); NaN if a class is absent. Raises ValueError for other targets
    and for scores that are not finite.
    """
    return float(resampled(scores, targets, np.ones((1, len(scores))))[0])


def resampled(
    scores: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"], counts: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """`auroc` of each of r resamples, in which case i occurs `counts[:, i]` times."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    known = ~np.isnan(targets)
    scores, targets, counts = scores[known], targets[known], counts[:, known]
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("labels must be 0, 1 or NaN")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not scores.size:
        return np.full(len(counts), np.nan)
    order = np.argsort(scores)
    scores, positive = scores[order], counts[:, order] * targets[order]
    negative = counts[:, order] - positive
    tied = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))  # the first of every group of tied scores
    positive, negative = (np.add.reduceat(side, tied, axis=1) for side in (positive, negative))
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def per_label(
    scores: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    *,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> LabelAuc:
    """`auroc` of every column. A column of NaN scores (nothing could be fitted) has no AUC."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and labels {targets.shape} do not fit")
    (values,) = bootstrap.columns(resampled, scores, targets, np.ones((1, len(scores))))
    tries = np.full((0, len(values)), np.nan)
    if bootstrap.resamples_of(len(scores), patients, resamples):
        counts = bootstrap.counts(len(scores), resamples=resamples, seed=seed, patients=patients)
        tries = bootstrap.columns(resampled, scores, targets, counts)
    bounds = [bootstrap.percentiles(column) for column in tries.T]
    low, high = np.array(bounds, np.float64).reshape(-1, 2).T
    positives, negatives = ((targets == value).sum(axis=0) for value in (1, 0))
    has_auc = ~np.isnan(values)
    means = (*_mean(values, tries, has_auc), *_mean(values, tries, has_auc & enough(positives, negatives)))
    return LabelAuc(values, means[0], positives, negatives, low, high, *means[1:])


def _mean(
    values: Float[np.ndarray, " c"], tries: Float[np.ndarray, "r c"], columns: Bool[np.ndarray, " c"]
) -> tuple[float, float, float]:
    """Mean over some columns and its interval; NaN for none."""
    if not columns.any():
        return float("nan"), *bootstrap.NONE
    # A resample without a rare label's positives would be a mean over other labels: left out.
    return float(values[columns].mean()), *bootstrap.percentiles(tries[:, columns].mean(axis=1))


def enough(positives: Int[np.ndarray, " c"], negatives: Int[np.ndarray, " c"]) -> Bool[np.ndarray, " c"]:
    """Whether there are FEWEST of both, so that an AUC says something."""
    return (np.asarray(positives) >= FEWEST) & (np.asarray(negatives) >= FEWEST)
