"""Entities without a knowledge base: the words of a batch that distinguish its reports. For MedKLIP and KAD.

Both systems get the findings of every report from outside, from RadGraph over a medical vocabulary, with "present",
"absent" or "uncertain" beside each. A batch holds token ids alone. The substitute: an entity is a token of the
vocabulary; those of a step are the ones whose presence is most uncertain over the batch, p (1 - p) with p the share of
its reports that hold the token; an entity is present where the report holds it. That is the simplest of the rules by
which KAD extracts entities. It knows no negation ("no effusion" holds effusion), no synonyms, and takes informative
words that are no findings ("left", "small", pieces of words).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax.config.objectives import KAD, MedKLIP
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.typing import Array, Bool, Float, Int, TextIds, TextMask


class Entities(NamedTuple):
    """What a batch's reports are asked for."""

    ids: Int[Array, " q"]
    present: Bool[Array, "b q"]
    informative: Bool[Array, " q"]  # False where all reports hold it, or none: nothing to learn


def choose(text: TextIds, mask: TextMask, vocab_size: int, count: int) -> Entities:
    """The `count` tokens whose presence in a report of the batch is the least predictable."""
    rows = jnp.arange(len(text))[:, None]
    held = jnp.zeros((len(text), vocab_size), jnp.uint8).at[rows, text].max(mask.astype(jnp.uint8))
    # Whole numbers: a token that all hold, as [CLS], is at 0 without rounding.
    holders = jnp.sum(held, axis=0, dtype=jnp.int32)
    uncertain, ids = jax.lax.top_k(holders * (len(text) - holders), count)
    return Entities(ids, held[:, ids] > 0, uncertain > 0)


def query_heads(settings: KAD | MedKLIP, model: UniMedI) -> dict[str, nn.Module]:
    """The decoder that asks a memory for each entity, and what judges from its answer whether the entity is present.

    Raises:
        ValueError: there are more entities than tokens in the vocabulary.
    """
    if settings.entities > model.report.vocab_size:
        raise ValueError(f"entities={settings.entities}, but the vocabulary has {model.report.vocab_size} tokens")
    width, dtype = model.vision.width, model.vision.dtype
    return {
        "decoder": heads.QueryDecoder(width, settings.depth, settings.attention_heads, dtype=dtype),
        "presence": heads.Linear(1, dtype=dtype),
    }


def encode(network: UniMedI, ids: Int[Array, " q"], start: Int[Array, ""]) -> Float[Array, "q w"]:
    """Each entity through the report tower: a report of that one word behind [CLS], whose id is `start`."""
    alone = jnp.stack([jnp.full_like(ids, start), ids], axis=1)
    return network.encode_text(alone, jnp.ones(alone.shape, bool))


def mentions(
    words: Float[Array, "b l w"], text: TextIds, mask: TextMask, ids: Int[Array, " q"]
) -> Float[Array, "b q w"]:
    """Each entity in each report: the mean of the word vectors where it occurs; 0 where it does not."""
    at = ((text[:, :, None] == ids[None, None]) & mask[:, :, None]).astype(jnp.float32)
    total = jnp.einsum("blq,blw->bqw", at, words.astype(jnp.float32))
    return total / jnp.maximum(jnp.sum(at, axis=1), 1.0)[..., None]


def presence(logits: Float[Array, "b q"], entities: Entities) -> Float[Array, " b"]:
    """Binary cross-entropy of each entity's presence, mean over the informative ones."""
    each = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), entities.present.astype(jnp.float32))
    informative = entities.informative.astype(jnp.float32)
    return each @ informative / jnp.maximum(jnp.sum(informative), 1.0)
