"""Area under the ROC curve per label, by ranks, with unknown labels skipped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unimedi_jax.metrics import bootstrap, label_keys, vectors

INVERTED_BELOW = 0.4  # zero-shot: the prompt pair may be the wrong way round


class LabelAuc(NamedTuple):
    """AUC of c labels. `macro` is the mean over the labels that have one."""

    per_label: Float[np.ndarray, " c"]  # NaN: a class is absent among the known labels
    macro: float
    positives: Int[np.ndarray, " c"]
    negatives: Int[np.ndarray, " c"]
    low: Float[np.ndarray, " c"]  # 95 % interval per label, NaN without resamples
    high: Float[np.ndarray, " c"]
    macro_low: float
    macro_high: float

    @property
    def undefined(self) -> int:
        """How many labels had no AUC and are not in `macro`."""
        return int(np.isnan(self.per_label).sum())

    def scalars(self, names: Sequence[str]) -> dict[str, float]:
        """`<key>`, `<key>/positives`, `<key>/negatives` of each label's key, `macro`, `undefined`, intervals."""
        result = {"macro": self.macro, "undefined": float(self.undefined)}
        if not np.isnan(self.macro_low):
            result |= {"macro/low": self.macro_low, "macro/high": self.macro_high}
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
    scores: Float[np.ndarray, "n c"], targets: Float[np.ndarray, "n c"], *, resamples: int = 0, seed: int = 0
) -> LabelAuc:
    """`auroc` of every column. A column of NaN scores (nothing could be fitted) has no AUC."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and labels {targets.shape} do not fit")
    (values,) = bootstrap.columns(resampled, scores, targets, np.ones((1, len(scores))))
    low = high = np.full(scores.shape[1], np.nan)
    macro_low = macro_high = float("nan")
    if resamples and len(scores) > 1:
        counts = bootstrap.counts(len(scores), resamples=resamples, seed=seed)
        tries = bootstrap.columns(resampled, scores, targets, counts)
        bounds = [bootstrap.percentiles(column) for column in tries.T]
        low, high = np.array(bounds, np.float64).reshape(-1, 2).T
        # A resample without a rare label's positives would be a macro over other labels: left out.
        macro = tries[:, ~np.isnan(values)]
        if macro.size:
            macro_low, macro_high = bootstrap.percentiles(macro.mean(axis=1))
    positives, negatives = ((targets == value).sum(axis=0) for value in (1, 0))
    return LabelAuc(values, vectors.nan_mean(values), positives, negatives, low, high, macro_low, macro_high)
