"""What masked modelling of films and scans shares: sizes by modality, random draws, and means over what was hidden."""

import math

import jax
from jax import numpy as jnp

from unimedi_jax import selection
from unimedi_jax.models import towers
from unimedi_jax.typing import Array, Bool, Float, Int, Key


def grid(name: str, model: towers.UniMedI) -> tuple[int, ...]:
    """Tokens along the axes of a modality: y, x of a film or z, y, x of a volume."""
    return model.vision.image_grid if name == "xray" else model.vision.volume_grid


def values(name: str, model: towers.UniMedI) -> int:
    """Pixels or voxels of one patch."""
    return math.prod(model.image_patch if name == "xray" else model.volume_patch)


def places(key: Key[Array, ""], rows: int, n: int) -> Int[Array, "b n"]:
    """For each of n tokens its place in a random order, drawn for every sample."""
    return jnp.argsort(jax.random.uniform(key, (rows, n)), axis=-1)


def hide(key: Key[Array, ""], rows: int, cells: tuple[int, ...], ratio: float, block: int = 1) -> Bool[Array, "b n"]:
    """Hides ceil(ratio * blocks) random blocks of every sample, each of `block` tokens along every axis of the grid.

    A grid of `cells` that does not divide into such blocks is hidden token by token.
    """
    if any(count % block for count in cells):
        block = 1
    coarse = tuple(count // block for count in cells)
    blocks = math.prod(coarse)
    hidden = places(key, rows, blocks) < selection.kept(blocks, 1 - ratio)
    hidden = hidden.reshape(rows, *coarse)
    for axis in range(1, hidden.ndim):
        hidden = jnp.repeat(hidden, block, axis=axis)
    return hidden.reshape(rows, -1)


def over(each: Float[Array, "b n"], where: Bool[Array, "b n"]) -> Float[Array, " b"]:
    """The mean of every sample's values at `where`; 0 for a sample that has no such place."""
    total = jnp.sum(jnp.where(where, each.astype(jnp.float32), 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(where, axis=-1), 1)
