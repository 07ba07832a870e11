"""Do the slices that the network attends to show the lesion? Hit rate against random choice.

The paper checks this on LUNA16: the top 20 % of 32 slices hit a nodule in 76.1 % of 67 CTs, random
choice in 53.73 %. Here a hit is a chosen depth layer whose slices touch at least one lesion slice.

Lesions lie where anatomy puts them, so scores that say "the middle" and never look at the CT hit often.
Beside a hit rate therefore stands that of the best fixed layers, and `layer_share` says how much of the
scores is position.
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
    """Hit rate of the chosen layers, and the rates of two blind choices for the same CTs."""

    measured: float  # NaN without cases
    random: float
    cases: int
    without_lesion: int  # left out: no slice is marked, nothing to hit
    all_lesion: int  # left out: every layer is marked, nothing to miss
    low: float  # 95 % interval of `measured`, NaN without resamples
    high: float
    fixed: float = float("nan")  # of the best fixed layers, where other CTs choose them

    def scalars(self) -> dict[str, float]:
        """`hit_rate`, `random_rate`, the counts, and where they were made the interval and `fixed_rate`."""
        result = {"hit_rate": self.measured, "random_rate": self.random}
        result |= {name: float(getattr(self, name)) for name in ("cases", "without_lesion", "all_lesion")}
        if not np.isnan(self.low):
            result |= {"hit_rate/low": self.low, "hit_rate/high": self.high}
        if not np.isnan(self.fixed):
            result["fixed_rate"] = self.fixed
        return result


def hit_rate(
    slice_scores: Scores,
    lesion: Bool[np.ndarray, "n slices"],
    k: int,
    *,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> HitRate:
    """Share of CTs with a lesion slice among the k layers of highest score (eq.2).

    Layer i covers slices [i * depth, (i + 1) * depth) with depth = slices // layers. The random
    rate is the mean over the same CTs of 1 - C(L - m, k) / C(L, k), m of L layers with lesion.
    Layers tied across the k-th place count by the chance of a random order among them.
    """
    hits, lucky = cases(slice_scores, lesion, k)
    touched = touched_layers(np.asarray(lesion, bool), layers=slice_scores.shape[1])
    some, full = touched.any(axis=1), touched.all(axis=1)
    counts = (int(rows.sum()) for rows in (some & ~full, ~some, full))
    interval = bootstrap.mean_interval(hits, resamples=resamples, seed=seed, patients=patients)
    return HitRate(vectors.nan_mean(hits), vectors.nan_mean(lucky), *counts, *interval)


def cases(
    slice_scores: Scores, lesion: Bool[np.ndarray, "n slices"], k: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """`hit_rate` case by case: the hit (0, 1, or the chance of ties) and the chance of a random choice.

    NaN for CTs with nothing to hit or nothing to miss.
    """
    touched = touched_layers(np.asarray(lesion, bool), layers=slice_scores.shape[1])
    if len(touched) != len(slice_scores):
        raise ValueError(f"{len(slice_scores)} rows of scores, {len(touched)} of lesions")
    rows = touched.any(axis=1) & ~touched.all(axis=1)
    hits, lucky = np.full((2, len(touched)), np.nan)
    hits[rows] = chance.top_k_hit(np.asarray(slice_scores, np.float64)[rows], touched[rows], k)
    lucky[rows] = chance.hit_probability(np.array(touched.shape[1]), touched[rows].sum(axis=1), np.array(k))
    return hits, lucky


def by_finding(
    slice_scores: Scores,
    lesion: Lesions,
    k: int,
    names: Sequence[str],
    *,
    choosing: Lesions | None = None,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, HitRate]:
    """`hit_rate` over the lesions of all findings together ("any") and of each finding alone.

    CTs without a lesion of that finding are left out of its row and counted in `without_lesion`.
    `choosing` are the lesions of other CTs, those of validation: for each row they choose its fixed layers.
    """
    marks, others = _by_name(lesion, names), {} if choosing is None else _by_name(choosing, names)
    drawn = {"resamples": resamples, "seed": seed, "patients": patients}
    rates = {name: hit_rate(slice_scores, mark, k, **drawn) for name, mark in marks.items()}
    layers = slice_scores.shape[1]
    fixed = {name: fixed_rate(other, marks[name], layers=layers, k=k) for name, other in others.items()}
    return rates | {name: rates[name]._replace(fixed=rate) for name, rate in fixed.items()}


def layer_share(slice_scores: Scores) -> float:
    """Share of the scores' variance that is due to the layer alone, whatever the CT (one-way ANOVA, eta squared).

    The variance of the layers' mean scores over CTs, divided by the variance of all scores. 1: all CTs
    get the same scores, and the choice is position alone. Scores without regard to position give about
    1 / n. NaN where all scores are equal, or there are none.
    """
    scores = np.asarray(slice_scores, np.float64)
    if not scores.size or np.ptp(scores) == 0:
        return float("nan")
    return float(scores.mean(axis=0).var() / scores.var())


def fixed_layers(lesion: Bool[np.ndarray, "n slices"], *, layers: int, k: int) -> Float[np.ndarray, " layers"]:
    """One-hot scores of k layers taken in every CT alike: what knowing where lesions usually are is worth.

    Each layer in turn is the one that hits most of the CTs not hit yet (greedy maximum coverage); to be
    chosen on other CTs than it is measured on. Lesions near the middle make it far stronger than random choice.
    """
    touched = touched_layers(np.asarray(lesion, bool), layers=layers)
    left = touched[~touched.all(axis=1)]
    scores = np.zeros(layers)
    for _ in range(min(k, layers)):
        best = np.where(scores > 0, -1, left.sum(axis=0)).argmax()
        scores[best] = 1
        left = left[~left[:, best]]
    return scores


def fixed_rate(
    choosing: Bool[np.ndarray, "m slices"], lesion: Bool[np.ndarray, "n slices"], *, layers: int, k: int
) -> float:
    """Hit rate on the CTs of `lesion` of the `fixed_layers` of other CTs; NaN where no CT of either can be hit."""
    touched = touched_layers(choosing, layers=layers)
    if not (touched.any(axis=1) & ~touched.all(axis=1)).any():
        return float("nan")
    fixed = fixed_layers(choosing, layers=layers, k=k)
    return hit_rate(np.tile(fixed, (len(lesion), 1)), lesion, k).measured


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


def _by_name(lesion: Lesions, names: Sequence[str]) -> dict[str, Bool[np.ndarray, "n slices"]]:
    """Lesion slices of all findings together ("any") and of each finding."""
    if lesion.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for {lesion.shape[1]} findings")
    return {"any": lesion.any(axis=1)} | {name: lesion[:, index] for index, name in enumerate(names)}


def touched_layers(lesion: Bool[np.ndarray, "n slices"], *, layers: int) -> Bool[np.ndarray, "n layers"]:
    """Which depth layers show a lesion in one of their slices. Raises ValueError: layers do not divide the slices."""
    if layers < 1 or lesion.shape[1] % layers:
        raise ValueError(f"{lesion.shape[1]} slices do not divide into {layers} layers")
    return lesion.reshape(len(lesion), layers, lesion.shape[1] // layers).any(axis=2)
