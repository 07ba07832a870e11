"""Average precision of boxes (y0, x0, y1, x1) of one class as COCO defines it (Lin et al., arXiv 1405.0312).

A true box is matched by the best-scored box that overlaps it enough and has no better truth left; precision is made
monotone and read at 101 recalls. At most 100 boxes an image count. Without a true box there is no recall: NaN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

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
    height, width = (_shared(a[:, None, axis::2], b[None, :, axis::2], more) for axis in (0, 1))
    both = height * width
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2] + more, axis=-1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _shared(a: Float[np.ndarray, "n 1 2"], b: Float[np.ndarray, "1 m 2"], more: float) -> Float[np.ndarray, "n m"]:
    """The length that spans (first, last) have in common, `more` longer; 0 where they have none."""
    low, high = np.maximum(a[..., 0], b[..., 0]), np.minimum(a[..., 1], b[..., 1])
    return np.clip(high - low + more, 0, None)


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
    best = table.max(axis=1, initial=0.0)
    for row, threshold in enumerate(thresholds):
        free, enough = np.ones(len(case.truth), bool), min(threshold, 1 - 1e-10)
        for column in np.flatnonzero(best >= enough):  # few of the boxes lie near a true one
            open_ones = np.where(free, table[column], -1.0)[::-1]  # of equal overlaps the last is taken, as by COCO
            if open_ones.max() >= enough:
                free[len(open_ones) - 1 - open_ones.argmax()] = False
                result[row, column] = True
    return case.scores[order], result


class Ranked(NamedTuple):
    """The boxes of all images, best first, sorted once for all resamples."""

    image: Int[np.ndarray, " n"]  # of each box
    matched: list[Int[np.ndarray, " m"]]  # the places of the boxes that match a true one, at each threshold
    truths: Int[np.ndarray, " i"]  # true boxes of each image


def ranked(cases: Sequence[Case], thresholds: Sequence[float]) -> Ranked:
    """The boxes of at least one image."""
    scores, matched = zip(*(hits(case, thresholds) for case in cases), strict=True)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    image = np.repeat(np.arange(len(cases)), [len(of_image) for of_image in scores])[order]
    places = [np.flatnonzero(row) for row in np.concatenate(matched, axis=1)[:, order]]
    return Ranked(image, places, np.array([len(case.truth) for case in cases]))


def average_precision(boxes: Ranked, counts: Int[np.ndarray, " i"]) -> Float[np.ndarray, " t"]:
    """At each threshold, with image i `counts[i]` times; NaN without a true box.

    Precision grows along the copies of a box that matches, and falls along those of another: made monotone it is that
    at the last copies of the boxes that match. (Of boxes of one image with equal scores all copies of one come first.)
    """
    truths = int(counts @ boxes.truths)
    if not truths:
        return np.full(len(boxes.matched), np.nan)
    taken = np.cumsum(counts[boxes.image])
    values = []
    for places in boxes.matched:
        right = np.cumsum(counts[boxes.image[places]])
        precision = right / np.maximum(taken[places], 1)  # of an image that is not drawn: as that before, or lower
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # recalls that are never reached
        values.append(precision[np.searchsorted(right / truths, RECALLS, side="left")].mean())
    return np.array(values)


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
    result, once = {}, np.ones(len(cases), int)
    for name, thresholds in (("map", PAPER), ("map_coco", COCO)):
        boxes = ranked(cases, thresholds)
        result[name] = vectors.nan_mean(average_precision(boxes, once))
        if name == "map_coco":
            result["ap50"] = float(average_precision(boxes, once)[COCO.index(0.5)])
        if resamples:
            result[f"{name}/low"], result[f"{name}/high"] = bootstrap.interval(
                lambda counts, boxes=boxes: vectors.nan_mean(average_precision(boxes, counts)),
                len(cases),
                resamples=resamples,
                seed=seed,
                patients=patients,
            )
    counted = _sure(cases, confidence)
    result["map_mgca"] = mean(counted, PAPER)
    result |= {"cases_mgca": float(len(counted)), "boxes": float(sum(len(case.truth) for case in cases))}
    return result


def mean(cases: Sequence[Case], thresholds: Sequence[float]) -> float:
    """The mean average precision over thresholds; NaN without a true box."""
    once = np.ones(len(cases), int)
    return vectors.nan_mean(average_precision(ranked(cases, thresholds), once)) if cases else float("nan")


def mean_of_mgca(cases: Sequence[Case], confidence: float) -> float:
    """`map_mgca` alone."""
    return mean(_sure(cases, confidence), PAPER)


def _sure(cases: Sequence[Case], confidence: float) -> list[Case]:
    """What the published protocol counts of the images."""
    rows = [case.scores >= confidence for case in cases]
    sure = [Case(x.predicted[row], x.scores[row], x.truth) for x, row in zip(cases, rows, strict=True)]
    return [case for case in sure if len(case.predicted) and len(case.truth)]
