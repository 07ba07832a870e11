"""Random changes of CTs in training, in HU on the record's grid. None mirrors: reports name sides."""

import numpy as np
from jaxtyping import Int16
from scipy import ndimage

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
    steps = np.full(3, 1 / factor)
    centre = (np.array(volume.shape) - 1) / 2
    settings = {"order": 1, "mode": "constant", "cval": AIR_HU, "output": np.float32}
    moved = ndimage.affine_transform(volume, steps, centre - steps * centre, **settings)
    return np.rint(moved).astype(np.int16)
