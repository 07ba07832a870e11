"""Sliding windows over a volume that is larger than the network's: overlapping predictions, blended."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

SIGMA = 0.125  # of the blending Gaussian, in window lengths


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: evenly stepped, the last one ending at the border."""
    if window > length:
        raise ValueError(f"a window of {window} does not fit {length}")
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return [min(number * step, length - window) for number in range(count)]


def predict(
    volume: Float[np.ndarray, "z y x"],
    window: Sequence[int],
    function: Callable[[Float[np.ndarray, "b wz wy wx"]], Float[np.ndarray, "b wz wy wx c"]],
    *,
    overlap: float = 0.5,
    rows: int = 1,
) -> Float[np.ndarray, "z y x c"]:
    """Mean of all windows' logits, weighted by a Gaussian around each window's centre (as MONAI does).

    `function` is called with exactly `rows` windows at a time; the padding of the last call is thrown away.
    """
    places = np.meshgrid(*(starts(n, w, overlap) for n, w in zip(volume.shape, window, strict=True)), indexing="ij")
    corners = np.stack([p.ravel() for p in places], axis=1)
    boxes = [tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True)) for corner in corners]
    weight = _gaussian(window)
    total = norm = None
    for first in range(0, len(boxes), rows):
        part = boxes[first : first + rows]
        predicted = function(np.stack([volume[box] for box in part + part[-1:] * (rows - len(part))]))
        if total is None:
            total = np.zeros((*volume.shape, predicted.shape[-1]), np.float32)
            norm = np.zeros((*volume.shape, 1), np.float32)
        for box, logits in zip(part, predicted, strict=False):
            total[box] += weight[..., None] * logits
            norm[box] += weight[..., None]
    total /= norm  # in place: the logits of a whole CT are large
    return total


def _gaussian(window: Sequence[int]) -> Float[np.ndarray, "wz wy wx"]:
    weight = np.ones(())
    for length in window:
        distance = np.arange(length) - (length - 1) / 2
        weight = weight[..., None] * np.exp(-(distance**2) / (2 * (SIGMA * length) ** 2))
    return np.maximum(weight, 1e-3).astype(np.float32)  # no voxel may be left without any weight
