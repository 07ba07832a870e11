"""PRIOR's arithmetic as pure functions of arrays: sentences, prototypes, and what is compared of them."""

import jax
import optax
from jax import numpy as jnp

from unimedi_jax.models import heads
from unimedi_jax.objectives import masked
from unimedi_jax.typing import Array, Bool, Float


def inner(mask: Bool[Array, "b l"]) -> Bool[Array, "b l"]:
    """Each report's tokens without the first and the last, [CLS] and [SEP]."""
    place = jnp.cumsum(mask, axis=1)
    return mask & (place > 1) & (place < jnp.sum(mask, axis=1, keepdims=True))


def runs(
    words: Float[Array, "b l w"], mask: Bool[Array, "b l"], count: int
) -> tuple[Float[Array, "b s w"], Bool[Array, "b s"]]:
    """Each report's tokens in `count` equal runs: the mean of each, and which there are.

    A report of fewer tokens has a run for each and leaves the last ones empty.
    """
    place = jnp.cumsum(mask, axis=1) - 1
    length = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), count)
    run = jax.nn.one_hot(place * count // length, count) * mask[..., None]
    size = jnp.sum(run, axis=1)
    total = jnp.einsum("bls,blw->bsw", run, words.astype(jnp.float32))
    return total / jnp.maximum(size, 1.0)[..., None], size > 0


def mix(
    sentences: Float[Array, "b s e"], memory: Float[Array, "p e"], noise: Float[Array, "b s p"], temperature: float
) -> tuple[Float[Array, "b s e"], Float[Array, "b s p"]]:
    """Sentences as mixtures of the memory's prototypes, and the logits of the shares before the (Gumbel) noise."""
    logits = sentences @ memory.T
    return jax.nn.softmax((logits + noise) / temperature) @ memory, logits


def sigmoid_attention(
    query: Float[Array, "b m e"], key: Float[Array, "b k e"], value: Float[Array, "b k e"], mask: Bool[Array, "b k"]
) -> Float[Array, "b m e"]:
    """Every key says its part by itself: sigmoids of the scaled products, which need not sum to 1. Float32."""
    logits = jnp.einsum("bme,bke->bmk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    weights = (jax.nn.sigmoid(logits) * mask[:, None]).astype(value.dtype)
    return jnp.einsum("bmk,bke->bme", weights, value, preferred_element_type=jnp.float32)


def disagreement(
    one: Float[Array, "b n e"],
    other: Float[Array, "b n e"],
    predicted_one: Float[Array, "b n e"],
    predicted_other: Float[Array, "b n e"],
) -> Float[Array, " b"]:
    """SimSiam (arXiv 2011.10566, eq. 2): minus the cosine of each prediction to the other side, which is held still."""

    def cosine(predicted: Array, target: Array) -> Array:
        return jnp.sum(heads.unit(predicted) * heads.unit(jax.lax.stop_gradient(target)), axis=-1)

    return -jnp.mean(cosine(predicted_one, other) + cosine(predicted_other, one), axis=1) / 2


def own_sentence(
    sentences: Float[Array, "b s e"],
    shown: Float[Array, "b s e"],
    real: Bool[Array, "b s"],
    scale: Float[Array, ""] | float,
) -> Float[Array, " b"]:
    """Symmetric InfoNCE between each sentence and what the image shows of it, among the sentences of its report."""
    logits = scale * jnp.einsum("bse,bte->bst", heads.unit(shown), heads.unit(sentences))

    def one_way(logits: Float[Array, "b s t"]) -> Float[Array, "b s"]:
        logits = jnp.where(real[:, None], logits, jnp.finfo(logits.dtype).min)
        return -jnp.diagonal(jax.nn.log_softmax(logits), axis1=1, axis2=2)

    return masked.over((one_way(logits) + one_way(jnp.swapaxes(logits, 1, 2))) / 2, real)


def paired(
    generated: Float[Array, "b s e"], mixtures: Float[Array, "b s e"], real: Bool[Array, "b s"]
) -> tuple[Float[Array, "b s e"], Float[Array, "b s e"]]:
    """What was generated, in the order of the sentences that it fits best: the least L1 in all; and these beside it.

    A sentence that there is not is 0. The sentences are targets and get no gradient. Float32.
    """
    generated = generated.astype(jnp.float32)
    told = jax.lax.stop_gradient(jnp.where(real[..., None], mixtures, 0.0))
    cost = jnp.sum(jnp.abs(jax.lax.stop_gradient(generated)[:, :, None] - told[:, None]), axis=-1)
    # The algorithm would not come to an end on NaN; the step is skipped all the same, for the loss has it.
    rows, columns = jax.vmap(optax.assignment.hungarian_algorithm)(jnp.nan_to_num(cost))
    order = jnp.take_along_axis(rows, jnp.argsort(columns, axis=1), axis=1)
    return jnp.take_along_axis(generated, order[..., None], axis=1), told


def divergence(target: Float[Array, "b s p"], logits: Float[Array, "b s p"]) -> Float[Array, "b s"]:
    """Kullback-Leibler divergence of the shares that `logits` give from those of `target`, which gets no gradient."""
    target = jax.nn.log_softmax(jax.lax.stop_gradient(target))
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(logits)), axis=-1)
