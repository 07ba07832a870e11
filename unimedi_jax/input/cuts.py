"""What a network sees of a CT's record, at its own size: the whole of it, or windows at the record's resolution."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int16, UInt8

from data.readers import placement
from data.record_grid import RecordGrid
from unimedi_jax.input import augmentation

Size = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Volume = Int16[np.ndarray, "z y x"]
Mask = UInt8[np.ndarray, "z y x"]
WHOLE, RANDOM = "whole", "random"
OUTSIDE = {"volume": augmentation.AIR_HU, "lesion_mask": 0, "organ_mask": 0}  # fields on the grid of a CT's record


def shrinks(shape: tuple[int, ...], size: Size) -> bool:
    """Whether block means bring a record of `shape` to `size`, or it has it already."""
    return not any(old % new for old, new in zip(shape, size, strict=True))


def resampled(volume: Volume, size: Size) -> Volume:
    """A whole volume of any shape at `size`, by the rule of the whole-scan grid (`geometry.canonical_weights`).

    Pixels of a record are square; in plane air fills what is missing to the proportions of `size`.
    """
    return placement.volume_on(volume, _placed(volume.shape, size))


def resampled_mask(mask: Mask, size: Size) -> Mask:
    """The mask of such a volume in the same place, each number by itself."""
    return placement.mask_on(mask, _placed(mask.shape, size), None)


def _placed(shape: tuple[int, ...], size: Size) -> placement.Placement:
    return placement.place((1.0, 1.0, 1.0), RecordGrid(volume=tuple(size)), tuple(slice(0, n) for n in shape))


def random_box(shape: tuple[int, ...], size: Size, rng: np.random.Generator) -> Box:
    """A window of `size` anywhere in a record; where the record is smaller, all of that axis."""
    return tuple(
        _part(n, wide, int(rng.integers(0, max(n - wide, 0) + 1))) for n, wide in zip(shape, size, strict=True)
    )


def boxes(shape: tuple[int, ...], size: Size, counts: Size) -> list[Box]:
    """`counts` windows along z, y and x, evenly spread from border to border, the most central one first.

    One alone is in the middle. Along an axis on which the record is no larger than the window all are the same.
    """
    starts = []
    for n, wide, count in zip(shape, size, counts, strict=True):
        spare = max(n - wide, 0)
        places = [spare // 2] if count == 1 else np.rint(np.linspace(0, spare, count)).astype(int).tolist()
        starts.append(sorted(places, key=lambda at, middle=spare / 2: abs(at - middle)))
    corners = sorted(itertools.product(*(enumerate(places) for places in starts)), key=_rank)
    return [tuple(_part(n, wide, at) for (_, at), n, wide in zip(c, shape, size, strict=True)) for c in corners]


def _rank(corner: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Orders windows by how far from the middle they are in the rows of places along each axis."""
    ranks = tuple(rank for rank, _ in corner)
    return (max(ranks), *ranks)


def _part(n: int, wide: int, start: int) -> slice:
    return slice(start, start + min(n, wide))


def window(values: np.ndarray, box: Box, size: Size, outside: int) -> np.ndarray:
    """The values in a box; `outside` fills what the record lacks of `size`, evenly on both sides.

    Of the record no more is copied than the window.
    """
    part = values[box]
    if part.shape == tuple(size):
        return part
    beside = [((wide - n) // 2, wide - n - (wide - n) // 2) for n, wide in zip(part.shape, size, strict=True)]
    return np.pad(part, beside, constant_values=outside)


def views(volume: Volume, size: Size, counts: Size) -> Iterator[Volume]:
    """The windows of `boxes`, at `size`."""
    return (window(volume, box, size, augmentation.AIR_HU) for box in boxes(volume.shape, size, counts))
