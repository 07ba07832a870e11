"""FROC of candidates (LUNA16, Setio et al., Medical Image Analysis 2017): sensitivity against false positives a scan.

A candidate within a nodule's radius of its middle hits it; of a nodule's several hits the best-scored counts and the
others are no false positives, nor are hits of findings that count for nothing. A nodule without a candidate is missed
at every threshold. The score is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unimedi_jax.metrics import bootstrap, vectors

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a scan
UNMEASURED_MM = 10.0  # for a diameter below 0 (LIDC's non-nodules, nodules under 3 mm), as LUNA16's evaluation has it


class Scan(NamedTuple):
    """What became of the candidates of one scan."""

    hits: Float[np.ndarray, " n"]  # the best score of each nodule, NaN for a missed one
    false: Float[np.ndarray, " m"]  # scores of candidates that hit nothing


def of_scan(
    candidates: Float[np.ndarray, "n 3"],
    scores: Float[np.ndarray, " n"],
    nodules: Float[np.ndarray, "m 4"],
    ignored: Float[np.ndarray, "k 4"],
) -> Scan:
    """Candidates by their middles, nodules and findings that count for nothing by middle and diameter, all in mm."""
    on_nodule, on_ignored = (_inside(candidates, findings) for findings in (nodules, ignored))
    best = np.full(len(nodules), np.nan)
    for row, hit in enumerate(on_nodule.T):
        best[row] = scores[hit].max() if hit.any() else np.nan
    return Scan(best, scores[~on_nodule.any(axis=1) & ~on_ignored.any(axis=1)])


def _inside(points: Float[np.ndarray, "n 3"], findings: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "n m"]:
    distance = np.linalg.norm(points[:, None] - findings[None, :, :3], axis=-1)
    diameter = np.where(findings[:, 3] < 0, UNMEASURED_MM, findings[:, 3])  # records built before hold LUNA16's -1
    return distance < diameter / 2


class Ranked(NamedTuple):
    """The candidates of all scans that hit or are false, best first, sorted once for all resamples."""

    scan: Int[np.ndarray, " n"]  # of each
    hit: Bool[np.ndarray, " n"]
    last: Int[np.ndarray, " t"]  # the last place of every score: those of equal scores are called together
    nodules: Int[np.ndarray, " s"]  # of each scan, missed ones too


def ranked(scans: Sequence[Scan]) -> Ranked:
    """The candidates of at least one scan."""
    hits = [scan.hits[~np.isnan(scan.hits)] for scan in scans]
    scores = np.concatenate([*hits, *(scan.false for scan in scans)])
    counts = [*map(len, hits), *(len(scan.false) for scan in scans)]
    scan = np.repeat(np.tile(np.arange(len(scans)), 2), counts)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, np.ones(min(len(scores), 1), bool)))
    return Ranked(scan[order], order < sum(counts[: len(scans)]), last, np.array([len(scan.hits) for scan in scans]))


def curve(scans: Ranked, counts: Int[np.ndarray, " s"]) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """False positives a scan and sensitivity at every threshold, from none called to all; NaN without nodules.

    Scan i counts `counts[i]` times.
    """
    times = counts[scans.scan]
    called, wrong = (np.cumsum(times * side)[scans.last] for side in (scans.hit, ~scans.hit))
    nodules = int(counts @ scans.nodules)
    sensitivity = np.append(0, called) / nodules if nodules else np.full(len(called) + 1, np.nan)
    return np.append(0, wrong) / counts.sum(), sensitivity


def score(scans: Ranked, counts: Int[np.ndarray, " s"], rates: Sequence[float] = RATES) -> Float[np.ndarray, " r"]:
    """Sensitivity at each of the rates, interpolated linearly between thresholds as LUNA16's evaluation does."""
    return np.interp(rates, *curve(scans, counts))


def measure(
    scans: Sequence[Scan], *, resamples: int = 0, seed: int = 0, patients: bootstrap.Patients = None
) -> dict[str, float]:
    """`froc`, the mean over RATES with an interval, `sensitivity/<rate>`, and counts."""
    candidates = ranked(scans)
    values = score(candidates, np.ones(len(scans), int))
    result = {"froc": float(values.mean())}
    result |= {f"sensitivity/{rate:g}": float(value) for rate, value in zip(RATES, values, strict=True)}
    if resamples:
        result["froc/low"], result["froc/high"] = bootstrap.interval(
            lambda counts: vectors.nan_mean(score(candidates, counts)),
            len(scans),
            resamples=resamples,
            seed=seed,
            patients=patients,
        )
    nodules = np.concatenate([scan.hits for scan in scans])
    return result | {"nodules": float(len(nodules)), "nodules/missed": float(np.isnan(nodules).sum())}
