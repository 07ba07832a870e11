"""UniMiSS's augmentation of CTs for classification, step by step as batchgenerators computes it.

Recipe: UniMiSSPlus/3D/RICORD/dataset/mydataset3D.py of the authors' code, whose lists and sizes are UniMiSS's. All of
it happens on (HU - 158.58) / 324.70, and what comes in from outside is 0 there. A sample has one channel, so that a
chance "of a sample" and one "of a channel" are one: their product.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from unimedi_jax.config.recipes import StrongConfig

MEAN_HU, DEVIATION_HU = 158.58, 324.70
ALPHA, SIGMA = (0.0, 900.0), (9.0, 13.0)  # size and smoothness of an elastic change
DEGREES, ZOOM = 15.0, (0.85, 1.25)  # about every axis; above 1 more is shown
NOISE, BLUR, COARSE = (0.0, 0.1), (0.5, 1.0), (0.5, 1.0)  # deviations, the latter in voxels; share of the voxels
FACTOR, SHIFT, GAMMA = (0.75, 1.25), 0.1, (0.7, 1.5)  # of brightness and contrast; deviation of a shift; exponent
Volume = Float[np.ndarray, "z y x"]
Places = Float[np.ndarray, "3 z y x"]  # where in a volume each voxel of the new one is read, from its middle


def change(volume: Volume, window_hu: Sequence[float], by: StrongConfig, rng: np.random.Generator) -> Volume:
    """A volume in [0, 1] over the window after the random changes of one step, which may leave [0, 1]."""
    low, high = window_hu
    slope, offset = (high - low) / DEVIATION_HU, (low - MEAN_HU) / DEVIATION_HU
    changed = moved(volume * np.float32(slope) + np.float32(offset), by, rng)
    for name, step in STEPS.items():
        if rng.random() < getattr(by, name):
            changed = step(changed, rng)
    return ((changed - offset) / slope).astype(np.float32)


def moved(volume: Volume, by: StrongConfig, rng: np.random.Generator) -> Volume:
    """An elastic change, a turn and another scale, each by its chance, in one cubic interpolation."""
    places, moves = middle_out(volume.shape), 0
    if rng.random() < by.elastic:
        alpha, sigma, moves = rng.uniform(*ALPHA), rng.uniform(*SIGMA), 1
        places = places + bends(rng.uniform(-1, 1, (3, *volume.shape)), alpha, sigma)
    if rng.random() < by.rotate:
        places, moves = turned(places, np.radians(rng.uniform(-DEGREES, DEGREES, 3))), 1
    if rng.random() < by.zoom:
        places, moves = places * around_one(ZOOM, rng), 1
    return read(volume, places) if moves else volume


def middle_out(shape: Sequence[int]) -> Places:
    """The place of every voxel, counted from the middle of the volume."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def bends(noise: Places, alpha: float, sigma: float) -> Places:
    """By how much an elastic change moves every voxel: noise in [-1, 1], smoothed, times `alpha`."""
    return np.stack([ndimage.gaussian_filter(one, sigma, mode="constant", cval=0) for one in noise]) * alpha


def turned(places: Places, angles: Sequence[float]) -> Places:
    """Places times the matrix of turns about the first, then the second, then the third axis, in radians."""
    (a, b, c), matrix = angles, np.eye(3)
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), (a, b, c), strict=True):
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return np.einsum("izyx,ij->jzyx", places, matrix)


def read(volume: Volume, places: Places) -> Volume:
    """A volume at places counted from its middle, by cubic splines; 0 outside."""
    middle = (np.array(volume.shape) - 1) / 2
    return ndimage.map_coordinates(volume, places + middle[:, None, None, None], order=3, mode="constant", cval=0)


def around_one(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """A factor below 1 as often as above it, uniform on each side."""
    low, high = limits
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)


def noisy(volume: Volume, rng: np.random.Generator) -> Volume:
    """Noise of a drawn deviation (which batchgenerators calls a variance)."""
    return volume + rng.normal(0, rng.uniform(*NOISE), volume.shape)


def blurred(volume: Volume, rng: np.random.Generator) -> Volume:
    """A Gaussian blur."""
    return ndimage.gaussian_filter(volume, rng.uniform(*BLUR))


def brightened(volume: Volume, rng: np.random.Generator) -> Volume:
    """All times a factor."""
    return volume * rng.uniform(*FACTOR)


def shifted(volume: Volume, rng: np.random.Generator) -> Volume:
    """All moved by a normal draw."""
    return volume + rng.normal(0, SHIFT)


def contrasted(volume: Volume, rng: np.random.Generator) -> Volume:
    """Differences from the mean times a factor, no further than the values went before."""
    mean = volume.mean()
    return np.clip((volume - mean) * around_one(FACTOR, rng) + mean, volume.min(), volume.max())


def coarsened(volume: Volume, rng: np.random.Generator) -> Volume:
    """A coarser grid by nearest voxels, and back by cubic splines within the values that it has."""
    shape = np.round(np.array(volume.shape) * rng.uniform(*COARSE)).astype(int)
    coarse = resized(volume, shape, order=0)
    return np.clip(resized(coarse, volume.shape, order=3), coarse.min(), coarse.max())


def resized(volume: Volume, shape: Sequence[int], *, order: int) -> Volume:
    """As skimage.transform.resize: edges of the grids agree, and the border repeats outside."""
    factors = [out / n for n, out in zip(volume.shape, shape, strict=True)]
    return ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)


def gamma(volume: Volume, rng: np.random.Generator) -> Volume:
    """Values over their range to a power, brought back to the mean and deviation of before."""
    mean, deviation, least = volume.mean(), volume.std(), volume.min()
    span = volume.max() - least
    changed = ((volume - least) / (span + 1e-7)) ** around_one(GAMMA, rng) * span + least
    changed = changed - changed.mean() + mean
    return changed / (changed.std() + 1e-8) * deviation


STEPS: dict[str, Callable[[Volume, np.random.Generator], Volume]] = {
    "noise": noisy,
    "blur": blurred,
    "multiply": brightened,
    "add": shifted,
    "contrast": contrasted,
    "coarse": coarsened,
    "gamma": gamma,
}
