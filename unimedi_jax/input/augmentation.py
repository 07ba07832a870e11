"""Random changes of CTs in training, in HU on the record's grid. None mirrors: reports name sides."""

import numpy as np
from jaxtyping import Int16

from unimedi_jax.config.pretraining import VolumeAugmentation

AIR_HU, HIGHEST_HU = -1024, 3071  # the range of a record
Volume = Int16[np.ndarray, "z y x"]


def augment(volume: Volume, most: VolumeAugmentation, rng: np.random.Generator) -> Volume:
    """A volume zoomed, then with other HU, then with noise, each drawn up to `most`; what is 0 there draws nothing."""
    if most.zoom:
        volume = zoom(volume, 1 + rng.uniform(-most.zoom, most.zoom))
    if not (most.scale or most.offset or most.noise):
        return volume
    hu = volume.astype(np.float32)
    if most.scale:
        hu *= 1 + rng.uniform(-most.scale, most.scale)
    if most.offset:
        hu += rng.uniform(-most.offset, most.offset)
    if most.noise:
        hu += rng.uniform(0, most.noise) * rng.standard_normal(hu.shape, np.float32)
    return np.rint(hu.clip(AIR_HU, HIGHEST_HU)).astype(np.int16)


def zoom(volume: Volume, factor: float) -> Volume:
    """The volume enlarged by `factor` about its centre on the same grid, linearly; air comes in from outside."""
    moved = volume.astype(np.float32)
    for axis, size in enumerate(volume.shape):  # linear interpolation in one axis after the other is that in all
        centre = (size - 1) / 2
        places = centre + (np.arange(size) - centre) / factor
        low = np.floor(places).clip(0, max(size - 2, 0)).astype(int)
        high = np.minimum(low + 1, size - 1)
        part = (places - low).astype(np.float32).reshape(-1, *[1] * (volume.ndim - 1 - axis))
        moved = moved.take(low, axis) * (1 - part) + moved.take(high, axis) * part
        outside = (places < 0) | (places > size - 1)
        moved[(slice(None),) * axis + (outside,)] = AIR_HU
    return np.rint(moved).astype(np.int16)
