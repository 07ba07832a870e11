"""Losses of dense prediction."""

import jax
import optax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float, Int


def binary(logits: Float[Array, "b *space"], mask: Float[Array, "b *space"]) -> Float[Array, ""]:
    """Ten times the focal loss (gamma 2) minus the logarithm of the batch's soft Dice, smoothed by 1 (MGCA)."""
    presence = jax.nn.sigmoid(logits)
    focal = optax.sigmoid_focal_loss(logits, mask, gamma=2.0).mean()
    overlap = (2 * jnp.sum(presence * mask) + 1) / (jnp.sum(presence) + jnp.sum(mask) + 1)
    return 10 * focal - jnp.log(overlap)


def exclusive(logits: Float[Array, "b *space c"], mask: Int[Array, "b *space"]) -> Float[Array, ""]:
    """Cross-entropy plus one minus the soft Dice of each case and class, squared in the denominator (UNETR)."""
    predicted, truth = jax.nn.softmax(logits), jax.nn.one_hot(mask, logits.shape[-1])
    # Not by integer labels: their gradient scatters, voxel after voxel on a CPU.
    entropy = optax.softmax_cross_entropy(logits, truth).mean()
    space = tuple(range(1, logits.ndim - 1))
    overlap = 2 * jnp.sum(predicted * truth, axis=space)
    return entropy + jnp.mean(1 - overlap / (jnp.sum(predicted**2, axis=space) + jnp.sum(truth**2, axis=space) + 1e-6))
