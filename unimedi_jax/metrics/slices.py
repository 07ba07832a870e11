"""Do the slices that the network attends to show the lesion? Hit rate against random choice.

The paper checks this on LUNA16: the top 20 % of 32 slices hit a nodule in 76.1 % of 67 CTs, random
choice in 53.73 %. Here a hit is a chosen depth layer whose slices touch at least one lesion slice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from unimedi_jax.metrics import bootstrap, chance, vectors

Scores = Float[np.ndarray, "n layers"]
Lesions = Bool[np.ndarray, "n c slices"]
UNSTATED = 254  # of a lesion mask: somebody drew a lesion and did not say which finding it is


class HitRate(NamedTuple):
    """Hit rate of the chosen layers and the exact rate of random choice for the same CTs."""

    measured: float  # NaN without cases
    random: float
    cases: int
    without_lesion: int  # left out: no slice is marked, nothing to hit
    all_lesion: int  # left out: every layer is marked, nothing to miss
    low: float  # 95 % interval of `measured`, NaN without resamples
    high: float

    def scalars(self) -> dict[str, float]:
        """`hit_rate`, `random_rate`, the counts, and the interval if it was made."""
        result = {"hit_rate": self.measured, "random_rate": self.random}
        result |= {name: float(getattr(self, name)) for name in ("cases", "without_lesion", "all_lesion")}
        if not np.isnan(self.low):
            result |= {"hit_rate/low": self.low, "hit_rate/high": self.high}
        return result


def hit_rate(
    slice_scores: Scores, lesion: Bool[np.ndarray, "n slices"], k: int, *, resamples: int = 0, seed: int = 0
) -> HitRate:
    """Share of CTs with a lesion slice among the k layers of highest score (eq.2).

    Layer i covers slices [i * depth, (i + 1) * depth) with depth = slices // layers. The random
    rate is the mean over the same CTs of 1 - C(L - m, k) / C(L, k), m of L layers with lesion.
    Layers tied across the k-th place count by the chance of a random order among them.
    """
    touched = _touched_layers(np.asarray(lesion, bool), layers=slice_scores.shape[1])
    if len(touched) != len(slice_scores):
        raise ValueError(f"{len(slice_scores)} rows of scores, {len(touched)} of lesions")
    some, full = touched.any(axis=1), touched.all(axis=1)
    keep = some & ~full
    hits = chance.top_k_hit(np.asarray(slice_scores, np.float64)[keep], touched[keep], k)
    lucky = chance.hit_probability(np.array(touched.shape[1]), touched[keep].sum(axis=1), np.array(k))
    counts = (int(rows.sum()) for rows in (keep, ~some, full))
    interval = bootstrap.mean_interval(hits, resamples=resamples, seed=seed)
    return HitRate(vectors.nan_mean(hits), vectors.nan_mean(lucky), *counts, *interval)


def by_finding(
    slice_scores: Scores, lesion: Lesions, k: int, names: Sequence[str], *, resamples: int = 0, seed: int = 0
) -> dict[str, HitRate]:
    """`hit_rate` over the lesions of all findings together ("any") and of each finding alone.

    CTs without a lesion of that finding are left out of its row and counted in `without_lesion`.
    """
    if lesion.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for {lesion.shape[1]} findings")
    marks = {"any": lesion.any(axis=1)}
    marks |= {name: lesion[:, index] for index, name in enumerate(names)}
    return {name: hit_rate(slice_scores, mark, k, resamples=resamples, seed=seed) for name, mark in marks.items()}


def fixed_layers(lesion: Bool[np.ndarray, "n slices"], *, layers: int, k: int) -> Float[np.ndarray, " layers"]:
    """One-hot scores of k layers taken in every CT alike: what knowing where lesions usually are is worth.

    Each layer in turn is the one that hits most of the CTs not hit yet (greedy maximum coverage); to be
    chosen on training CTs. Lesions near the middle make this far stronger than random choice.
    """
    touched = _touched_layers(np.asarray(lesion, bool), layers=layers)
    left = touched[~touched.all(axis=1)]
    scores = np.zeros(layers)
    for _ in range(min(k, layers)):
        best = np.where(scores > 0, -1, left.sum(axis=0)).argmax()
        scores[best] = 1
        left = left[~left[:, best]]
    return scores


def fixed_rates(
    train: Bool[np.ndarray, "m c slices"], lesion: Lesions, names: Sequence[str], *, layers: int, k: int
) -> dict[str, float]:
    """Hit rates of `by_finding` for the `fixed_layers` of the training CTs; rows without a case are left out."""
    fixed = fixed_layers(train.any(axis=1), layers=layers, k=k)
    rates = by_finding(np.tile(fixed, (len(lesion), 1)), lesion, k, names)
    return {name: rate.measured for name, rate in rates.items() if rate.cases}


def lesion_slices(lesion_mask: UInt8[np.ndarray, "n z y x"], findings: int) -> Bool[np.ndarray, "n c z"]:
    """Which axial slices hold which finding; c = findings + 1, the last row being lesions of unstated kind.

    Mask: 1 + finding, 254 unstated, 0 none, 255 not annotated.
    """
    values = [*range(1, findings + 1), UNSTATED]
    return np.stack([(lesion_mask == value).any(axis=(2, 3)) for value in values], axis=1)


def around_centre(lesion: Lesions, *, reach: int = 3) -> Bool[np.ndarray, "n slices"]:
    """Slices within `reach` of the middle of a finding's extent: what the paper counts as positive on LUNA16.

    All lesions of one finding are taken for one; findings are taken together.
    """
    marked = lesion.any(axis=2)
    last = lesion.shape[2] - 1
    middle = (lesion.argmax(axis=2) + last - lesion[:, :, ::-1].argmax(axis=2)) / 2
    near = np.abs(np.arange(last + 1) - middle[:, :, None]) <= reach
    return (near & marked[:, :, None]).any(axis=1)


def _touched_layers(lesion: Bool[np.ndarray, "n slices"], *, layers: int) -> Bool[np.ndarray, "n layers"]:
    if layers < 1 or lesion.shape[1] % layers:
        raise ValueError(f"{lesion.shape[1]} slices do not divide into {layers} layers")
    return lesion.reshape(len(lesion), layers, lesion.shape[1] // layers).any(axis=2)
