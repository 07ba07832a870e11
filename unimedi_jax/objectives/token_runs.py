"""Runs of a report's tokens that stand for its sentences: a batch does not mark full stops."""

import jax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Bool, Float, TextMask


def inner(mask: TextMask) -> Bool[Array, "b l"]:
    """Each report's tokens without the first and the last, [CLS] and [SEP]."""
    place = jnp.cumsum(mask, axis=1)
    return mask & (place > 1) & (place < jnp.sum(mask, axis=1, keepdims=True))


def means(words: Float[Array, "b l w"], mask: TextMask, count: int) -> tuple[Float[Array, "b s w"], Bool[Array, "b s"]]:
    """Each report's tokens in `count` equal runs: the mean of each, and which there are.

    A report of fewer tokens has a run for each and leaves the last ones empty.
    """
    place = jnp.cumsum(mask, axis=1) - 1
    length = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), count)
    run = jax.nn.one_hot(place * count // length, count) * mask[..., None]
    size = jnp.sum(run, axis=1)
    total = jnp.einsum("bls,blw->bsw", run, words.astype(jnp.float32))
    return total / jnp.maximum(size, 1.0)[..., None], size > 0


def present(mask: TextMask, count: int) -> Bool[Array, "b s"]:
    """Which of the `count` runs `means` fills."""
    return jnp.arange(count)[None] < jnp.minimum(jnp.sum(mask, axis=1, keepdims=True), count)
