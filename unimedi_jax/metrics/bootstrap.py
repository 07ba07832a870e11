"""Seeded 95 % bootstrap intervals (percentile method, Efron 1979).

Cases are resampled one by one: where a patient has many cases the interval is somewhat too narrow.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from unimedi_jax.metrics import vectors

QUANTILES = (0.025, 0.975)
CELLS = 2_000_000  # of resamples times cases at a time
NONE = (float("nan"), float("nan"))


def draws(n: int, *, resamples: int, seed: int) -> Int[np.ndarray, "resamples n"]:
    """Row indices of every resample: n rows drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def counts(n: int, *, resamples: int, seed: int) -> Int[np.ndarray, "resamples n"]:
    """How often each row occurs in every resample: the same draws as `draws`."""
    return np.stack([np.bincount(row, minlength=n) for row in draws(n, resamples=resamples, seed=seed)])


def columns(
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], Float[np.ndarray, " r"]],
    scores: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    counts: Float[np.ndarray, "resamples n"],
) -> Float[np.ndarray, "resamples c"]:
    """`statistic(scores, targets, counts)` of every column in all resamples, some at a time for their memory.

    A column of NaN scores (nothing could be fitted) is NaN.
    """
    result = np.full((len(counts), scores.shape[1]), np.nan)
    pieces = np.array_split(counts, 1 + counts.size // CELLS)
    for index in np.flatnonzero(~np.isnan(scores).all(axis=0)):
        result[:, index] = np.concatenate([statistic(scores[:, index], targets[:, index], piece) for piece in pieces])
    return result


def percentiles(statistics: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the statistics that are defined; NaN if none is."""
    defined = statistics[~np.isnan(statistics)]
    if not defined.size:
        return NONE
    low, high = np.quantile(defined, QUANTILES)
    return float(low), float(high)


def interval(
    statistic: Callable[[Int[np.ndarray, " n"]], float], n: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval of `statistic(rows)` over resampled rows; NaN for fewer than 2 cases."""
    if n < 2 or resamples < 1:
        return NONE
    rows = draws(n, resamples=resamples, seed=seed)
    return percentiles(np.array([statistic(row) for row in rows], np.float64))


def mean_interval(values: Float[np.ndarray, " n"], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of one number per case (a hit, a rank); NaN values are left out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2 or resamples < 1:
        return NONE
    return percentiles(counts(len(values), resamples=resamples, seed=seed) @ values / len(values))


def mean_scalars(name: str, values: Float[np.ndarray, " n"], *, resamples: int, seed: int = 0) -> dict[str, float]:
    """The mean of one number per case under `name`; with `resamples` its interval as `<name>/low` and `<name>/high`."""
    result = {name: vectors.nan_mean(values)}
    if resamples:
        low, high = mean_interval(values, resamples=resamples, seed=seed)
        result |= {f"{name}/low": low, f"{name}/high": high}
    return result
