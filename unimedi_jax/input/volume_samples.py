"""Whole CTs at a size of their own for classification, augmented as UniMiSS's and VoCo's fine-tuning is.

Labels that name no side may be mirrored; these are never seen beside a report.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16
from scipy import ndimage

from data.readers import geometry
from unimedi_jax.input import crops

DEGREES, SCALE = 15.0, (0.85, 1.25)  # of an affine change
GAMMA, NOISE = (0.7, 1.5), 0.1  # exponent; most of the noise's deviation, of intensities in [0, 1]
Volume = Float[np.ndarray, "z y x"]


class Changes(NamedTuple):
    """How a volume in [0, 1] is changed in training: chances, and how far intensities go."""

    flip: tuple[float, ...] = (0.0, 0.0, 0.0)  # chances along z, y, x
    affine: float = 0.0  # chance of a turn in every plane and another scale
    gamma: float = 0.0  # chance of another exponent
    noise: float = 0.0  # chance
    intensity: float = 0.0  # chance of the two below
    add: float = 0.0  # most
    multiply: float = 0.0  # most beside 1
    offset: float = 0.0  # most by which the cut leaves the middle, of the plane's side


NOTHING = Changes()


def change(volume: Volume, by: Changes, rng: np.random.Generator) -> Volume:
    """A volume in [0, 1] after the random changes of one step."""
    for axis, chance in enumerate(by.flip):
        if rng.random() < chance:
            volume = np.flip(volume, axis)
    if rng.random() < by.affine:
        volume = turn_and_zoom(volume, rng.uniform(-DEGREES, DEGREES, 3), rng.uniform(*SCALE))
    if rng.random() < by.gamma:
        volume = volume ** np.float32(rng.uniform(*GAMMA))
    if rng.random() < by.noise:
        volume = volume + rng.uniform(0, NOISE) * rng.standard_normal(volume.shape, np.float32)
    if rng.random() < by.intensity:
        volume = (volume + rng.uniform(-by.add, by.add)) * (1 + rng.uniform(-by.multiply, by.multiply))
    return np.ascontiguousarray(np.clip(volume, 0, 1), np.float32)


def turn_and_zoom(volume: Volume, degrees: Sequence[float], scale: float) -> Volume:
    """A volume turned about its middle in the planes of z y, z x and y x, in voxels; `scale` above 1 shows more of it.

    Linear; 0 comes in from outside.
    """
    pull = scale * np.eye(3)
    for plane, angle in zip(((0, 1), (0, 2), (1, 2)), np.radians(degrees), strict=True):
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pull = turn @ pull
    centre = (np.array(volume.shape) - 1) / 2
    return ndimage.affine_transform(volume, pull, centre - pull @ centre, order=1)


def resized(volume: np.ndarray, size: Sequence[int]) -> Volume:
    """A volume of any shape at `size`: exact means of areas where it shrinks, linear where it grows."""
    axes = zip(volume.shape, size, strict=True)
    return geometry.resample(volume, tuple(geometry.axis_weights(n, 1.0, out, float(n)) for n, out in axes))


def cut(volume: Int16[np.ndarray, "z y x"], share: float, offset: tuple[float, float]) -> Int16[np.ndarray, "z y x"]:
    """The middle `share` of the plane's sides, moved by `offset` of a side along y and x, and never beyond it."""
    box = [slice(None)]
    for n, by in zip(volume.shape[1:], offset, strict=True):
        length = max(1, round(share * n))
        start = int(np.clip((n - length) // 2 + round(by * n), 0, n - length))
        box.append(slice(start, start + length))
    return volume[tuple(box)]


@dataclasses.dataclass(frozen=True)
class ToVolume:
    """Record to `tokens`, the volume (z, y, x) in [0, 1] over the window at `size`, and `labels`."""

    size: tuple[int, ...]
    window_hu: tuple[float, ...]
    share: float = 1.0  # of the plane's sides
    changes: Changes = NOTHING

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        most = self.changes.offset
        offset = (0.0, 0.0) if rng is None else tuple(rng.uniform(-most, most, 2))
        volume = crops.scaled(resized(cut(record["volume"], self.share, offset), self.size), self.window_hu)
        if rng is not None:
            volume = change(volume, self.changes, rng)
        return {"tokens": volume, "labels": record["labels"]}
