"""Seeded 95 % bootstrap intervals (percentile method, Efron 1979) over patients.

A resample draws as many patients as there are, with replacement, and each with all of its rows: two pictures of one
patient are not two independent cases (the cluster bootstrap; Field and Welsh, J. R. Stat. Soc. B 2007). Where nothing
is known of patients, every row is one.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int

from unimedi_jax.metrics import pooling, vectors

QUANTILES = (0.025, 0.975)
DEFINED = 0.5  # share of the resamples in which a statistic must be defined, for an interval of it
CELLS = 2_000_000  # of resamples times cases at a time
NONE = (float("nan"), float("nan"))
Patients = Sequence[Hashable] | None  # of each row; "" or None: a row is a patient by itself


def draws(n: int, *, resamples: int, seed: int) -> Int[np.ndarray, "resamples n"]:
    """The patients of every resample: n of them drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def counts(n: int, *, resamples: int, seed: int, patients: Patients = None) -> Int[np.ndarray, "resamples n"]:
    """How often each of n rows occurs in every resample: as often as its patient in `draws`."""
    group = groups(n, patients)
    size = int(group.max(initial=-1)) + 1
    drawn = draws(size, resamples=resamples, seed=seed)
    return np.stack([np.bincount(row, minlength=size) for row in drawn])[:, group]


def resamples_of(n: int, patients: Patients, resamples: int) -> int:
    """How many resamples there are to draw: none of fewer than 2 patients."""
    return resamples if resamples and groups(n, patients).max(initial=-1) > 0 else 0


def chosen(patients: Patients, rows: Sequence[int] | Int[np.ndarray, " m"]) -> Patients:
    """The patients of some of the rows."""
    return None if patients is None else [patients[row] for row in rows]


def groups(n: int, patients: Patients) -> Int[np.ndarray, " n"]:
    """The patient of each row, numbered by first appearance. Raises ValueError for another number of rows."""
    if patients is None:
        return np.arange(n)
    if len(patients) != n:
        raise ValueError(f"{n} rows, {len(patients)} patients")
    return pooling.groups([("", row) if name == "" else name for row, name in enumerate(patients)])[0]


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


def defined(statistics: Float[np.ndarray, " resamples"]) -> Float[np.ndarray, " m"]:
    """The statistics that are numbers; none where fewer than the share DEFINED are: these few say what is rare."""
    numbers = statistics[~np.isnan(statistics)]
    return numbers if len(numbers) >= DEFINED * len(statistics) else numbers[:0]


def percentiles(statistics: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the `defined` statistics; NaN if there are none."""
    numbers = defined(statistics)
    if not numbers.size:
        return NONE
    low, high = np.quantile(numbers, QUANTILES)
    return float(low), float(high)


def interval(
    statistic: Callable[[Int[np.ndarray, " n"]], float],
    n: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    patients: Patients = None,
) -> tuple[float, float]:
    """Interval of `statistic(counts)` over resampled patients; NaN for fewer than 2 patients.

    `counts` says how often each of n rows is in a resample, so that what is sorted stays sorted.
    """
    if not resamples_of(n, patients, resamples):
        return NONE
    drawn = counts(n, resamples=resamples, seed=seed, patients=patients)
    return percentiles(np.array([statistic(row) for row in drawn], np.float64))


def mean_interval(
    values: Float[np.ndarray, " n"], *, resamples: int = 1000, seed: int = 0, patients: Patients = None
) -> tuple[float, float]:
    """Interval of the mean of one number per row (a hit, a rank); NaN values are left out."""
    values = np.asarray(values, np.float64)
    defined = np.flatnonzero(~np.isnan(values))
    values, patients = values[defined], chosen(patients, defined)
    if not resamples_of(len(values), patients, resamples):
        return NONE
    drawn = counts(len(values), resamples=resamples, seed=seed, patients=patients)
    return percentiles(drawn @ values / drawn.sum(axis=1))


def mean_scalars(
    name: str, values: Float[np.ndarray, " n"], *, resamples: int, seed: int = 0, patients: Patients = None
) -> dict[str, float]:
    """The mean of one number per row under `name`; with `resamples` its interval as `<name>/low` and `<name>/high`."""
    result = {name: vectors.nan_mean(values)}
    if resamples:
        low, high = mean_interval(values, resamples=resamples, seed=seed, patients=patients)
        result |= {f"{name}/low": low, f"{name}/high": high}
    return result
