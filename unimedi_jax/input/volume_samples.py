"""Whole CTs at a size of their own for classification, augmented as UniMiSS's, VoCo's and HKBU's fine-tuning is.

Labels that name no side may be mirrored; these are never seen beside a report.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from data.readers import geometry
from unimedi_jax.config.recipes import UNCHANGED, StrongConfig
from unimedi_jax.input import crops, unimiss_augmentation

Volume = Float[np.ndarray, "z y x"]


class Changes(NamedTuple):
    """How a volume in [0, 1] is changed in training: chances, and how far intensities go."""

    flips: float = 1.0  # chance that any of these is tried
    flip: tuple[float, ...] = (0.0, 0.0, 0.0)  # chances along z, y, x
    intensity: float = 0.0  # chance of the two below
    add: float = 0.0  # most
    multiply: float = 0.0  # most beside 1
    offset: float = 0.0  # most by which the cut leaves the middle, of the plane's side
    strong: StrongConfig = UNCHANGED  # of UniMiSS


NOTHING = Changes()


def change(volume: Volume, by: Changes, rng: np.random.Generator) -> Volume:
    """A volume in [0, 1] after random mirroring and other intensities, in [0, 1] if it was."""
    if rng.random() < by.flips:
        for axis, chance in enumerate(by.flip):
            if rng.random() < chance:
                volume = np.flip(volume, axis)
    if rng.random() < by.intensity:
        volume = (volume + rng.uniform(-by.add, by.add)) * (1 + rng.uniform(-by.multiply, by.multiply))
        volume = np.clip(volume, 0, 1)
    return np.ascontiguousarray(volume, np.float32)


def standardised(volume: Volume) -> Volume:
    """A volume of mean 0 and deviation 1, as HKBU's code has it."""
    return (volume - volume.mean()) / (volume.std(ddof=1) + np.float32(1e-5))


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
    """Record to `tokens`, the volume (z, y, x) at `size`, and `labels`.

    Its values are the window as [-1, 1], which UniMiSS's changes may leave; `standardise`: mean 0 and deviation 1.
    """

    size: tuple[int, ...]
    window_hu: tuple[float, ...]
    share: float = 1.0  # of the plane's sides
    changes: Changes = NOTHING
    standardise: bool = False

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        most = self.changes.offset
        offset = (0.0, 0.0) if rng is None else tuple(rng.uniform(-most, most, 2))
        volume = crops.scaled(resized(cut(record["volume"], self.share, offset), self.size), self.window_hu)
        if rng is not None:
            if self.changes.strong != UNCHANGED:
                volume = unimiss_augmentation.change(volume, self.window_hu, self.changes.strong, rng)
            volume = change(volume, self.changes, rng)
        return {"tokens": standardised(volume) if self.standardise else 2 * volume - 1, "labels": record["labels"]}
