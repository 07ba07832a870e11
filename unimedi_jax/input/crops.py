"""Crops of CTs at their own resolution for segmentation, cut and augmented as UNETR's code and nnU-Net's users do.

Voxels of structures are rare: half of the crops are around one (MONAI's RandCropByPosNegLabel). A reflection turns a
left kidney into a right one, whatever its axis, so crops are mirrored only where no structure's name says a side;
quarter turns about the long axis keep sides.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, UInt8

from unimedi_jax.input import dense
from unimedi_jax.input.augmentation import AIR_HU

Box = tuple[slice, ...]
Volume = Int16[np.ndarray, "z y x"]
INTENSITY = 0.1  # most by which intensities in [0, 1] are scaled or shifted
# A word between other letters than its own: of a sentence, of snake_case, or of CamelCase.
LOWER, CAPITAL = "left|right|izquierd[oa]s?|derech[oa]s?", "Left|Right|Izquierd[oa]s?|Derech[oa]s?"
SIDES = re.compile(rf"(?<![^\W\d_])(?:(?i:{LOWER})(?![^\W\d_])|(?:{LOWER})(?=[A-Z]))|(?:{CAPITAL})(?=[A-Z]|[\W\d_]|$)")


class Augmentation(NamedTuple):
    """Chances of each change of a crop."""

    flip: float = 0.0  # along each axis
    rotate: float = 0.0  # by quarter turns in the axial plane
    scale: float = 0.0
    shift: float = 0.0


UNCHANGED = Augmentation()


def name_sides(names: Sequence[str]) -> bool:
    """Whether one of the structures is on one side of the body alone."""
    return any(SIDES.search(name) for name in names)


def foreground(volume: Volume, low: float) -> Box:
    """The box of all voxels above `low` HU, as MONAI's CropForeground; the whole volume where there are none."""
    above = volume > low
    if not above.any():
        return tuple(slice(0, n) for n in volume.shape)
    axes = range(volume.ndim)
    lines = (np.flatnonzero(above.any(axis=tuple(other for other in axes if other != axis))) for axis in axes)
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def scaled(volume: Volume, window_hu: Sequence[float]) -> Float[np.ndarray, "z y x"]:
    """Hounsfield units to [0, 1] over the window; outside is clipped."""
    low, high = window_hu
    return (np.clip(volume.astype(np.float32), low, high) - np.float32(low)) * np.float32(1 / (high - low))


def margins(shape: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    """What a volume lacks to `size` before and after it along each axis, halved as MONAI's sliding window does."""
    lacking = [max(whole - length, 0) for length, whole in zip(shape, size, strict=True)]
    return [(n // 2, n - n // 2) for n in lacking]


def corners(
    inside: Bool[np.ndarray, "z y x"],
    body: Bool[np.ndarray, "z y x"],
    size: Sequence[int],
    draws: tuple[int, float],
    rng: np.random.Generator,
) -> Int[np.ndarray, "k 3"]:
    """First voxels of crops of `size` around random voxels, moved to lie in the volume.

    `draws` are the number of crops and the chance that the voxel is `inside` a structure; else it is in the body and
    inside none. Where there are none of one kind, all are of the other.
    """
    count, positive = draws
    kinds = [np.flatnonzero(inside), np.flatnonzero(body & ~inside)]
    first = np.where(rng.random(count) < positive, 0, 1)
    places = np.empty(count, np.int64)
    for at, kind in enumerate(first):
        some = next((one for one in (kinds[kind], kinds[1 - kind]) if len(one)), None)
        places[at] = rng.integers(inside.size) if some is None else some[rng.integers(len(some))]
    centres = np.stack(np.unravel_index(places, inside.shape), axis=1)
    return np.clip(centres - np.array(size) // 2, 0, np.array(inside.shape) - size)


def around(volume: Volume, middle: Sequence[float], size: Sequence[int]) -> Volume:
    """The crop of `size` whose middle voxel holds a place (z, y, x) from the volume's first edge; air comes in."""
    starts = [int(np.floor(at)) - n // 2 for at, n in zip(middle, size, strict=True)]
    crop = np.full(tuple(size), AIR_HU, np.int16)
    inside = [
        (max(start, 0), min(start + n, length)) for start, n, length in zip(starts, size, volume.shape, strict=True)
    ]
    if all(low < high for low, high in inside):
        to = tuple(slice(low - start, high - start) for (low, high), start in zip(inside, starts, strict=True))
        crop[to] = volume[tuple(slice(low, high) for low, high in inside)]
    return crop


def augment(
    crop: Float[np.ndarray, "z y x"], mask: UInt8[np.ndarray, "z y x"], chances: Augmentation, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "z y x"], UInt8[np.ndarray, "z y x"]]:
    """A crop in [0, 1] and its mask after UNETR's random flips, quarter turns, scaling and shift of intensities."""
    for axis in range(3):
        if rng.random() < chances.flip:
            crop, mask = np.flip(crop, axis), np.flip(mask, axis)
    if rng.random() < chances.rotate:
        turns = int(rng.integers(1, 4)) if crop.shape[1] == crop.shape[2] else 2
        crop, mask = np.rot90(crop, turns, (1, 2)), np.rot90(mask, turns, (1, 2))
    if rng.random() < chances.scale:
        crop = crop * np.float32(1 + rng.uniform(-INTENSITY, INTENSITY))
    if rng.random() < chances.shift:
        crop = crop + np.float32(rng.uniform(-INTENSITY, INTENSITY))
    return np.ascontiguousarray(crop), np.ascontiguousarray(mask)


@dataclasses.dataclass(frozen=True)
class ToCrops:
    """Record to `count` random crops: `crops` (k, z, y, x) float32, [0, 1] over the window, and `mask` uint8."""

    target: str
    size: tuple[int, ...]  # (z, y, x)
    count: int
    positive: float  # share of the crops that are around a voxel of a structure
    window_hu: tuple[float, ...]
    chances: Augmentation = UNCHANGED

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        low = self.window_hu[0]
        box = foreground(record["volume"], low)
        volume, mask = record["volume"][box], dense.truth(record, self.target)[box]
        outside = margins(volume.shape, self.size)
        if np.any(outside):
            volume = np.pad(volume, outside, constant_values=round(low))
            mask = np.pad(mask, outside)
        starts = corners(mask > 0, volume > low, self.size, (self.count, self.positive), rng)
        made = [self._cut(volume, mask, start, rng) for start in starts]
        return {"crops": np.stack([crop for crop, _ in made]), "mask": np.stack([part for _, part in made])}

    def _cut(
        self, volume: Volume, mask: UInt8[np.ndarray, "z y x"], start: Int[np.ndarray, " 3"], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        box = tuple(slice(a, a + n) for a, n in zip(start, self.size, strict=True))
        return augment(scaled(volume[box], self.window_hu), mask[box], self.chances, rng)
