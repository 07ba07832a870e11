"""One number a case, by which the best, the median and the worst of a split are picked for a page."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from unimedi_jax.metrics import auroc, pooling, retrieval, vectors

RANKS = ("best", "median", "worst")


def picked(values: Float[np.ndarray, " n"]) -> dict[str, int]:
    """The rows with the largest, the middle and the smallest value, by RANKS; NaN is left out.

    Of equal values the first row is best. Two cases are the best and the worst; one is the best, none is nothing.
    """
    values = np.asarray(values, np.float64)
    rows = np.flatnonzero(~np.isnan(values))
    order = rows[np.argsort(-values[rows], kind="stable")]
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    ranks = RANKS if len(order) > 2 else ("best", "worst")[: len(order)]
    return {rank: int(order[places[rank]]) for rank in ranks}


def attention_auc(scores: Float[np.ndarray, "n t"], lesion: Bool[np.ndarray, "n t"]) -> Float[np.ndarray, " n"]:
    """Per case, how often a token that shows the lesion scores above one that does not; 0.5 is chance.

    The area under the ROC curve of the scores within the case. NaN where no token shows it, or all do.
    """
    pairs = zip(scores, np.asarray(lesion, np.float64), strict=True)
    return np.array([auroc.auroc(row, touched) for row, touched in pairs], np.float64)


def finding_auc(scores: Float[np.ndarray, "n c"], labels: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    """Per case, the share of the cases without its findings that score lower for them; 0.5 is chance, ties count half.

    The mean over the cases with a finding is the AUC of that finding. NaN for cases without a finding, and where no
    case is known to be without it.
    """
    values = np.full(labels.shape, np.nan)
    for column, (score, label) in enumerate(zip(scores.T, labels.T, strict=True)):
        without = np.sort(score[label == 0])
        rows = np.flatnonzero(label == 1)
        if len(without):
            below, upto = (np.searchsorted(without, score[rows], side=side) for side in ("left", "right"))
            values[rows, column] = (below + upto) / (2 * len(without))
    return np.array([vectors.nan_mean(row) for row in values])


def report_rank(
    z_image: Float[np.ndarray, "n e"], z_report: Float[np.ndarray, "n e"], reports: Sequence[str]
) -> Int[np.ndarray, " n"]:
    """Per image, the place of the first report of the same words among all n, 1 being the most similar.

    A report that is as similar as it counts before it.
    """
    group, _ = pooling.groups(reports)
    z_image, z_report = vectors.unit_rows(z_image), vectors.unit_rows(z_report)
    ranks = np.zeros(len(group), int)
    for start in range(0, len(group), retrieval.ROWS):
        rows = slice(start, start + retrieval.ROWS)
        similarity = np.round(z_image[rows] @ z_report.T, retrieval.DECIMALS)
        same = group[rows, None] == group[None, :]
        own = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = 1 + ((similarity >= own) & ~same).sum(axis=1)
    return ranks


def lesion_patches(lesion_mask: UInt8[np.ndarray, "y x"], size: int, grid: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    """Which patches of the centre of an X-ray, `size` pixels square, show a lesion; raster order.

    Mask: 0 none, 255 not annotated, all else a lesion. `grid` divides the square into patches.
    """
    start_y, start_x = (np.array(lesion_mask.shape) - size) // 2
    mask = lesion_mask[start_y : start_y + size, start_x : start_x + size]
    y, x = np.nonzero((mask > 0) & (mask < 255))
    touched = np.zeros(grid, bool)
    touched[y * grid[0] // size, x * grid[1] // size] = True
    return touched.reshape(-1)
