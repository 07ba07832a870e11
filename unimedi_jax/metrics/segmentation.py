"""Dice, HD95 and NSD of one structure, and the rule for empty masks.

Both masks empty: Dice 1, HD95 0, NSD 1. One of them empty: Dice 0, NSD 0, HD95 the diagonal of the picture, since a
distance to nothing must cost something. Of a structure that the truth lacks that is the rule "one"; by "zero" it is as
bad as can be whatever is predicted (UNETR's code), by "skip" it counts nowhere (MONAI's means). A surface is the set of
a mask's voxels that erosion takes away, every one counting the same, as in MONAI; DeepMind's surface-distance weighs
them by their area, which differs a little.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from unimedi_jax.metrics import bootstrap, label_keys, vectors

KINDS = ("dice", "hd95", "nsd")
Mask = Bool[np.ndarray, "*space"]
Classes = UInt8[np.ndarray, "*space"]  # 0 elsewhere


def dice(truth: Mask, predicted: Mask) -> float:
    """Twice the overlap over the sum of both sizes."""
    size = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / size if size else 1.0


def surfaces(truth: Mask, predicted: Mask, spacing: Sequence[float], *, tolerance: float) -> tuple[float, float]:
    """HD95 in the unit of `spacing`, and NSD: the share of both surfaces within `tolerance` of the other."""
    if not truth.any() or not predicted.any():
        both = not truth.any() and not predicted.any()
        diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
        return (0.0, 1.0) if both else (diagonal, 0.0)
    box = _around(truth | predicted)
    truth, predicted = _surface(truth[box]), _surface(predicted[box])
    to_truth = ndimage.distance_transform_edt(~truth, sampling=spacing)[predicted]
    to_predicted = ndimage.distance_transform_edt(~predicted, sampling=spacing)[truth]
    within = np.count_nonzero(to_truth <= tolerance) + np.count_nonzero(to_predicted <= tolerance)
    hd95 = max(np.percentile(to_truth, 95), np.percentile(to_predicted, 95))
    return float(hd95), within / (len(to_truth) + len(to_predicted))


def _surface(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def _around(mask: Mask) -> tuple[slice, ...]:
    """The box that holds a mask, a voxel wider where there is room: nothing outside it takes part."""
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(max(span[0] - 1, 0), span[-1] + 2) for span in spans)


def case(
    truth: Classes, predicted: Classes, classes: int, spacing: Sequence[float], *, tolerance: float, absent: str = "one"
) -> tuple[Float[np.ndarray, "c 3"], Bool[np.ndarray, " c"]]:
    """Dice, HD95 and NSD of the structures 1 to `classes` of one case, and which of them the truth holds.

    `absent` is the rule for those that it lacks; by "skip" their values are NaN.
    """
    worst = (0.0, float(np.linalg.norm(np.multiply(truth.shape, spacing))), 0.0)
    values = np.zeros((classes, len(KINDS)))
    present = np.zeros(classes, bool)
    for number in range(1, classes + 1):
        a, b = truth == number, predicted == number
        values[number - 1] = dice(a, b), *surfaces(a, b, spacing, tolerance=tolerance)
        present[number - 1] = a.any()
    if absent != "one":
        values[~present] = worst if absent == "zero" else np.nan
    return values, present


def summarise(
    values: Float[np.ndarray, "n c 3"],
    present: Bool[np.ndarray, "n c"],
    names: Sequence[str],
    *,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, float]:
    """`dice/<name>`, `hd95/<name>`, `nsd/<name>` over all cases; `dice_present/<name>` over those that have it.

    `.../mean` averages over structures, with an interval over patients. `cases/<name>` counts those that have it.
    """
    result: dict[str, float] = {}
    drawn = np.zeros((0, len(values)))
    if bootstrap.resamples_of(len(values), patients, resamples):
        drawn = bootstrap.counts(len(values), resamples=resamples, seed=seed, patients=patients)
    names = label_keys.of(names)
    for index, kind in enumerate(KINDS):
        by_name = [vectors.nan_mean(values[:, number, index]) for number in range(len(names))]
        result |= {f"{kind}/{name}": value for name, value in zip(names, by_name, strict=True)}
        result[f"{kind}/mean"] = vectors.nan_mean(np.array(by_name))
        if len(drawn):
            low, high = bootstrap.percentiles(_means(values[:, :, index], drawn))
            result |= {f"{kind}/mean/low": low, f"{kind}/mean/high": high}
    held = [vectors.nan_mean(values[present[:, number], number, 0]) for number in range(len(names))]
    result |= {f"dice_present/{name}": value for name, value in zip(names, held, strict=True)}
    result["dice_present/mean"] = vectors.nan_mean(np.array(held))
    result |= {f"cases/{name}": float(present[:, number].sum()) for number, name in enumerate(names)}
    return result


def _means(values: Float[np.ndarray, "n c"], counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """In every resample the mean over structures of their means over cases, NaN values left out.

    NaN where a resample lacks a structure that some case has: it would be a mean over other structures.
    """
    known = ~np.isnan(values)
    somewhere = known.any(axis=0)
    total, cases = counts @ np.where(known, values, 0.0)[:, somewhere], counts @ known[:, somewhere].astype(np.float64)
    means = np.divide(total, cases, out=np.full(total.shape, np.nan), where=cases > 0)
    return means.mean(axis=1) if somewhere.any() else np.full(len(counts), np.nan)
