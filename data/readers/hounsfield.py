"""Converts a volume slab by slab: to Hounsfield units, or to the objects of a mask."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from data.readers.files import BadInput, Note, ignore_note
from data.readers.geometry import AIR_HU, HIGHEST_HU, Scan

SLAB_BYTES = 1 << 22  # as stored; as floats, with what is made of them, about ten times as much
METAL_HU = 8000  # above any bone and calcium
SOFT_TISSUE, MIN_SOFT = (-150, 250), 0.02  # HU, and the share of it that any scan of a body has
TOO_LOW_HU = -1500
MAX_OBJECTS = 255
AIR_RANGE, MIN_AIR = (-1050, -900), 0.05  # HU, and the share of a scan that it fills at least


@dataclasses.dataclass(frozen=True)
class VolumeStream:
    """A volume whose voxels have not been read yet. `affine` (4, 4): index to millimetres toward L, P, S.

    `slabs` yields them once, in order: whole planes (i, j, n) of the last axis, real numbers of any type. It raises
    BadInput for a damaged file, at the latest after the last slab.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    slabs: Iterator[np.ndarray]
    itemsize: int = 4  # bytes of a number in a slab


def to_hu(volume: VolumeStream, note: Note = ignore_note) -> Scan:
    """int16 HU within AIR_HU..HIGHEST_HU; refuses numbers that are no Hounsfield units.

    2 bytes per voxel stay in memory, whatever the file's type.
    """
    hu = np.empty(volume.shape, np.int16, order="F")
    low, high = np.inf, -np.inf
    lowest = too_low = at = 0  # voxels at the lowest value, voxels below TOO_LOW_HU, planes so far
    finite = True
    for slab in volume.slabs:
        # Read on: damage of the file is the better reason.
        finite = finite and (slab.dtype.kind != "f" or bool(np.isfinite(slab).all()))
        if not finite:
            continue
        smallest = float(slab.min())
        low, high, lowest = min(low, smallest), max(high, float(slab.max())), 0 if smallest < low else lowest
        if smallest < TOO_LOW_HU:
            too_low += np.count_nonzero(slab < TOO_LOW_HU)
            lowest += np.count_nonzero(slab == low)
        if np.can_cast(np.int16, slab.dtype):  # a type without room for air holds no HU: refused below
            clipped = np.clip(slab, AIR_HU, HIGHEST_HU)
            hu[..., at : at + slab.shape[2]] = np.rint(clipped) if slab.dtype.kind == "f" else clipped
        at += slab.shape[2]
    if not finite:
        raise BadInput("nonfinite", "the scan has NaN or infinite voxels")
    if low == high:
        raise BadInput("constant_volume", "every voxel has the same value")
    if low > -200:
        raise BadInput("not_hu", f"the lowest value is {low:.0f}: no air, so not Hounsfield units (MR? no intercept?)")
    if low < TOO_LOW_HU and _rescaled_twice(hu, lowest, too_low):
        raise BadInput(
            "double_rescale",
            "air lies near -2000 and tissue near -1000: rescaled twice (set the file's slope to 1, its intercept to 0)",
        )
    if high > METAL_HU:
        note("metal_clipped")
    return Scan(hu, volume.affine)


def rescaled(volume: VolumeStream, rescale: tuple[float, float], note: Note = ignore_note) -> VolumeStream:
    """The volume, with slope and intercept applied only if that is what brings air to its Hounsfield units."""
    slope, intercept = rescale
    slabs = list(volume.slabs)

    def applied() -> Iterator[np.ndarray]:
        return (slab.astype(np.float32) * np.float32(slope) + np.float32(intercept) for slab in slabs)

    if has_air(slabs) or not has_air(applied()):
        return dataclasses.replace(volume, slabs=iter(slabs))
    note("rescaled_by_table")
    return dataclasses.replace(volume, slabs=applied())


def has_air(slabs: Iterable[np.ndarray]) -> bool:
    """Whether enough voxels have the values of air for the numbers to be Hounsfield units."""
    counts = [(air(slab), slab.size) for slab in slabs]
    return sum(count for count, _ in counts) >= MIN_AIR * sum(size for _, size in counts)


def air(slab: np.ndarray) -> int:
    """How many voxels have the values of air."""
    low, high = AIR_RANGE
    return int(np.count_nonzero((slab >= low) & (slab <= high)))


def _rescaled_twice(hu: np.ndarray, lowest: int, too_low: int) -> bool:
    """Whether tissue has the values of air: most voxels are far too low, or hardly any as dense as soft tissue.

    Padding, which may fill most of a scan, is one value, the lowest, and is not counted.
    """
    soft = sum(np.count_nonzero((plane > SOFT_TISSUE[0]) & (plane < SOFT_TISSUE[1])) for plane in hu.T)
    inside, too_low = hu.size - lowest, too_low - lowest
    return too_low > hu.size / 2 or (too_low > MIN_SOFT * inside and soft < MIN_SOFT * inside)


def to_objects(volume: VolumeStream, *, own_numbers: bool = False) -> Scan:
    """A mask as uint8: 0, and a number for each other value, its own or the order in which it appears.

    Refuses what is not a set of few whole numbers.
    """
    objects = np.zeros(volume.shape, np.uint8, order="F")
    known: list[float] = []
    at = 0
    for slab in volume.slabs:
        if slab.dtype.kind == "f" and not (np.isfinite(slab) & (slab == np.rint(slab))).all():
            raise BadInput("mask_values", "the mask does not hold whole numbers")
        values = np.unique(slab[slab != 0]).tolist()
        known += [value for value in values if value not in known]
        too_large = own_numbers and max(known, default=0) > MAX_OBJECTS
        if len(known) > MAX_OBJECTS or min(known, default=0) < 0 or too_large:
            raise BadInput(
                "mask_values", f"the mask holds negative, too large or more than {MAX_OBJECTS} different numbers"
            )
        for value in values:
            objects[..., at : at + slab.shape[2]][slab == value] = value if own_numbers else 1 + known.index(value)
        at += slab.shape[2]
    return Scan(objects, volume.affine)
