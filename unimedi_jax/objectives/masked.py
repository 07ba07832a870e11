"""What masked modelling of X-rays and CTs shares: random masks, and means over what was masked."""

import math

import jax
from jax import numpy as jnp

from unimedi_jax import selection
from unimedi_jax.typing import Array, Bool, Float, Int, Key


def random_ranks(key: Key[Array, ""], samples: int, n: int) -> Int[Array, "b n"]:
    """The rank of each of n tokens in a random order, drawn for every sample."""
    return jnp.argsort(jax.random.uniform(key, (samples, n)), axis=-1)


def random_block_mask(
    key: Key[Array, ""], samples: int, grid: tuple[int, ...], ratio: float, block: int = 1
) -> Bool[Array, "b n"]:
    """Masks ceil(ratio * blocks) random blocks of every sample, each of `block` tokens along every axis of the grid.

    A grid that does not divide into such blocks is masked token by token.
    """
    if any(count % block for count in grid):
        block = 1
    blocks = tuple(count // block for count in grid)
    count = math.prod(blocks)
    mask = random_ranks(key, samples, count) < selection.num_kept(count, 1 - ratio)
    mask = mask.reshape(samples, *blocks)
    for axis in range(1, mask.ndim):
        mask = jnp.repeat(mask, block, axis=axis)
    return mask.reshape(samples, -1)


def masked_mean(values: Float[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, " b"]:
    """The mean of every sample's values where `mask` is True; 0 for a sample without any."""
    total = jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)
