"""Average precision of boxes (y0, x0, y1, x1) of one class as COCO defines it (Lin et al., arXiv 1405.0312).

A true box is matched by the best-scored box that overlaps it enough and has no better truth left; precision is made
monotone and read at 101 recalls. At most 100 boxes an image count. Without a true box there is no recall: NaN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unimedi_jax.metrics import bootstrap, vectors

PAPER = tuple(0.4 + 0.05 * step for step in range(8))  # 0.4, ..., 0.75: RSNA and object-CXR (MGCA, UniMedI)
COCO = tuple(0.5 + 0.05 * step for step in range(10))
MOST = 100
RECALLS = np.linspace(0, 1, 101)


class Case(NamedTuple):
    """One image: predicted boxes with their scores, and the true boxes."""

    predicted: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    truth: Float[np.ndarray, "m 4"]


def overlaps(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"], more: float = 0.0) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair, each side `more` longer; two boxes without area overlap by 0."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low + more, 0, None), axis=-1)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2] + more, axis=-1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def suppress(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], *, above: float, pixel: float = 0.0
) -> tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, " k"]]:
    """Best first, without those that overlap a better one by more than `above` (non-maximum suppression).

    With a `pixel` as in MGCA's code: each side of a box is a pixel longer, and who overlaps by `above` goes too.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    left = np.ones(len(boxes), bool)
    table = overlaps(boxes, boxes, pixel)
    apart = table < above if pixel else table <= above
    for row in range(len(boxes)):
        if left[row]:
            left[row + 1 :] &= apart[row, row + 1 :]
    return boxes[left], scores[left]


def hits(case: Case, thresholds: Sequence[float]) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, "t n"]]:
    """Scores of an image's boxes, best first, and at each threshold which of them match a true box."""
    order = np.argsort(-case.scores, kind="stable")[:MOST]
    table = overlaps(case.predicted[order].astype(np.float64), case.truth.astype(np.float64))
    result = np.zeros((len(thresholds), len(order)), bool)
    for row, threshold in enumerate(thresholds):
        free = np.ones(len(case.truth), bool)
        for column, overlap in enumerate(table):
            open_ones = np.where(free, overlap, -1.0)[::-1]  # of equal overlaps the last is taken, as by COCO
            if len(open_ones) and open_ones.max() >= min(threshold, 1 - 1e-10):
                free[len(open_ones) - 1 - open_ones.argmax()] = False
                result[row, column] = True
    return case.scores[order], result


def average_precision(
    scores: Float[np.ndarray, " n"], matched: Bool[np.ndarray, "t n"], truths: int
) -> Float[np.ndarray, " t"]:
    """Of all images' boxes at each threshold; `truths` counts the true boxes."""
    if not truths:
        return np.full(len(matched), np.nan)
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(matched[:, order], axis=1)
    precision = right / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # recalls that are never reached
    places = [np.searchsorted(row / truths, RECALLS, side="left") for row in right]
    return np.array([row[place].mean() for row, place in zip(precision, places, strict=True)])


def measure(
    cases: Sequence[Case],
    *,
    confidence: float = 0.5,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, float]:
    """`map` (IoU 0.4:0.75), `map_coco` (0.5:0.95), `ap50`, `map_mgca`, counts; intervals for the first two.

    `map_mgca` is the published protocol: only boxes scored at least `confidence`, and images with none of them or
    without a true box left out, which flatters. All else counts every image.
    """
    result = {"ap50": float(_of(cases, (0.5,))[0])}
    for name, thresholds in (("map", PAPER), ("map_coco", COCO)):
        of_images = [hits(case, thresholds) for case in cases]
        truths = np.array([len(case.truth) for case in cases])
        result[name] = _mean(of_images, truths, np.arange(len(cases)))
        if resamples:
            result[f"{name}/low"], result[f"{name}/high"] = bootstrap.interval(
                lambda rows, x=of_images, t=truths: _mean(x, t, rows),
                len(cases),
                resamples=resamples,
                seed=seed,
                patients=patients,
            )
    high = [case.scores >= confidence for case in cases]
    sure = [Case(x.predicted[rows], x.scores[rows], x.truth) for x, rows in zip(cases, high, strict=True)]
    counted = [case for case in sure if len(case.predicted) and len(case.truth)]
    result["map_mgca"] = vectors.nan_mean(_of(counted, PAPER)) if counted else float("nan")
    result |= {"cases_mgca": float(len(counted)), "boxes": float(sum(len(case.truth) for case in cases))}
    return result


def _of(cases: Sequence[Case], thresholds: Sequence[float]) -> Float[np.ndarray, " t"]:
    of_images = [hits(case, thresholds) for case in cases]
    scores, matched = (np.concatenate(part, axis=-1) for part in zip(*of_images, strict=True))
    return average_precision(scores, matched, sum(len(case.truth) for case in cases))


def _mean(of_images: Sequence[tuple[np.ndarray, np.ndarray]], truths: np.ndarray, rows: np.ndarray) -> float:
    scores = np.concatenate([of_images[row][0] for row in rows])
    matched = np.concatenate([of_images[row][1] for row in rows], axis=1)
    return vectors.nan_mean(average_precision(scores, matched, int(truths[rows].sum())))
