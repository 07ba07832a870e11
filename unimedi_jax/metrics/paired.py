"""Comparisons of trained models by a paired bootstrap over patients and seeds, and Holm's step-down test.

Every number of a model is the mean over its training seeds of a number measured on the same patients. A resample draws
patients with replacement, the same ones for every model and seed, and seeds with replacement, the same ones for every
model: what two models share cancels in their difference (Efron and Tibshirani 1993; crossed factors: Owen 2007).
With n seeds the spread between seeds is drawn too narrow, by sqrt((n - 1) / n); what one run happens to make of one
patient is drawn too wide, as it enters by either draw. Prefer five seeds to three.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unimedi_jax.metrics import auroc, bootstrap

Counts = Int[np.ndarray, "r n"]  # how often each of n patients occurs in each of r resamples


class Estimate(NamedTuple):
    """A number and what it is in every resample; sums, differences and ratios of paired ones are paired."""

    value: float
    draws: Float[np.ndarray, " r"]

    def __add__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, np.add)

    def __sub__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, np.subtract)

    def __truediv__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, np.divide)

    def _with(self, other: "Estimate | float", operation: Callable) -> "Estimate":
        value, draws = other if isinstance(other, Estimate) else (other, other)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Estimate(float(operation(np.float64(self.value), value)), operation(self.draws, draws))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % by percentiles; NaN without resamples, or where fewer than half of them are defined."""
        return bootstrap.percentiles(self.draws)

    @property
    def p_value(self) -> float:
        """One-sided, of "not above 0": the share of resamples at or below 0; 1 where there is no interval."""
        draws = bootstrap.defined(self.draws)
        if np.isnan(self.value) or not draws.size:
            return 1.0
        return float((1 + (draws <= 0).sum()) / (1 + draws.size))


def patients(n: int, *, resamples: int, seed: int) -> Counts:
    """The patients of every resample, to be used for all models."""
    return bootstrap.counts(n, resamples=resamples, seed=seed)


def mean(values: Float[np.ndarray, " n"], counts: Counts) -> Estimate:
    """Mean of one number for each patient; patients with NaN are left out of it."""
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    total, sizes = counts @ np.where(defined, values, 0.0), (counts @ defined).astype(float)
    draws = np.divide(total, sizes, out=np.full(len(counts), np.nan), where=sizes > 0)
    return Estimate(float(values[defined].mean()) if defined.any() else float("nan"), draws)


def auc(scores: Float[np.ndarray, "n c"], labels: Float[np.ndarray, "n c"], counts: Counts) -> Estimate:
    """Mean over the findings of their AUC. A resample that lacks a finding is NaN: it would be a mean over others."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    values = auroc.per_label(scores, labels)
    columns = np.flatnonzero(~np.isnan(values.per_label))
    if not columns.size:
        return Estimate(float("nan"), np.full(len(counts), np.nan))
    draws = bootstrap.columns(auroc.resampled, scores[:, columns], labels[:, columns], counts)
    return Estimate(values.macro, draws.mean(axis=1))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of paired estimates, such as those of two modalities."""
    values, draws = zip(*estimates, strict=True)
    return Estimate(float(np.mean(values)), np.mean(draws, axis=0))


def over_seeds(estimates: Sequence[Estimate], *, seed: int) -> Estimate:
    """Mean over training seeds, drawn with replacement in each resample.

    Give all models the same `seed` and their estimates in the same order of training seeds: they are then paired.
    """
    values, draws = zip(*estimates, strict=True)
    rows = bootstrap.counts(len(values), resamples=len(draws[0]), seed=seed)
    return Estimate(float(np.mean(values)), np.einsum("rs,sr->r", rows / len(values), np.stack(draws)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): each may be compared with the error rate of the whole family."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
