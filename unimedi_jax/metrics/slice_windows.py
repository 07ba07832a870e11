"""The paper's check of slices on LUNA16: windows of 32 contiguous original slices, each around one nodule.

A window contains its nodule and begins anywhere that lets it; a hit is a chosen depth layer with a slice within three
of the nodule's middle. Every nodule counts by itself, whatever else its window shows. The rate of a random choice
follows from the same windows: published is 0.5373, beside a measured 0.761.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

DEPTH, REACH, SHARE = 32, 3, 0.2  # slices of a window; slices beside the middle that count; layers that are chosen
TOUCHING = np.ones((3, 3, 3), bool)  # voxels that belong together, corners too
Extent = tuple[float, float]  # of a nodule along z, in slices from the scan's first edge


def of_mask(mask: Bool[np.ndarray, "z y x"]) -> list[Extent]:
    """The extents of the separate parts of a mask."""
    parts = ndimage.find_objects(ndimage.label(mask, TOUCHING)[0])
    return [(float(part[0].start), float(part[0].stop)) for part in parts]


def of_boxes(boxes: Float[np.ndarray, "n 7"], findings: Sequence[int]) -> list[Extent]:
    """The extents of the boxes of these findings: label, z0, y0, x0, z1, y1, x1."""
    return [(float(box[1]), float(box[4])) for box in boxes if int(box[0]) in findings]


def start(extent: Extent, slices: int, rng: np.random.Generator) -> int | None:
    """The first slice of a window that contains the nodule, each possible one with the same chance.

    Of a nodule longer than a window it is in the middle. None for a scan with fewer slices than a window.
    """
    if slices < DEPTH:
        return None
    first, last = int(np.floor(extent[0])), int(np.ceil(extent[1]))
    low, high = max(0, last - DEPTH), min(first, slices - DEPTH)
    if low > high:
        return int(np.clip(round((first + last - DEPTH) / 2), 0, slices - DEPTH))
    return int(rng.integers(low, high + 1))


def positive(extents: Sequence[Extent], starts: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n 32"]:
    """The slices of each window that lie within REACH of the one that holds the middle of its own nodule."""
    middles = np.floor(np.array(extents).reshape(-1, 2).mean(axis=1)) - starts
    return np.abs(np.arange(DEPTH) - middles[:, None]) <= REACH


def chosen(layers: int) -> int:
    """How many of so many layers are the top fifth."""
    return max(1, round(SHARE * layers))


def parts_of(mask: UInt8[np.ndarray, "z y x"], values: Sequence[int]) -> list[Extent]:
    """The extents of all separate lesions of a mask with one of these values."""
    return [extent for value in values for extent in of_mask(mask == value)]
