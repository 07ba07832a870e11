"""The report tower: BERT's architecture, so that Bio_ClinicalBERT's weights fit."""

from typing import Any, NamedTuple

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.models import transformer
from unimedi_jax.typing import Array, Float, TextIds, TextMask

EPSILON = 1e-12  # LayerNorm of BERT
Context = Float[Array, "b d"] | None  # what is added to each of a report's words


class Layer(nn.Module):
    """Post-norm transformer layer: LayerNorm(x + sublayer(x))."""

    heads: int
    mlp_width: int
    dtype: Any
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask: TextMask) -> tuple[Array, None]:
        x = placement.shard_batch(x)
        norm = dict(epsilon=EPSILON, dtype=self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        attention = transformer.Attention(self.heads, self.dtype, dropout=self.dropout, name="attention")
        attended, _ = attention(x, mask, self.train)
        x = nn.LayerNorm(name="norm1", **norm)(x + drop(attended))
        hidden = transformer.Mlp(self.mlp_width, self.dtype, name="mlp")(x)
        return nn.LayerNorm(name="norm2", **norm)(x + drop(hidden)), None


class TextOutput(NamedTuple):
    """What the report tower gives for a batch of reports."""

    vector: Float[Array, "b d"]  # of the whole report
    words: Float[Array, "b l d"]  # of each token, after the last layer


class ReportTower(nn.Module):
    """Token ids to one vector a report: CLS of the last layer, or the mean of the last hidden states.

    Padding (mask False) is never attended to. BERT's pooler is left out, as in MGCA. `context` is added to every
    token's embedding: an image that helps to read (MRM).
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    max_positions: int = 512
    dropout: float = 0.1
    pooling: str = "cls"  # "cls" or "mean"
    dtype: Any = jnp.bfloat16
    remat: str = "none"
    unrolled: bool = False

    @nn.compact
    def __call__(self, text: TextIds, text_mask: TextMask, train: bool = False, context: Context = None) -> TextOutput:
        if text.shape[1] > self.max_positions:
            raise ValueError(f"reports of {text.shape[1]} tokens exceed the {self.max_positions} positions")
        init = transformer.init(self.width)
        embed = dict(embedding_init=init, dtype=self.dtype)
        words = nn.Embed(self.vocab_size, self.width, name="words", **embed)(text)
        positions = nn.Embed(self.max_positions, self.width, name="positions", **embed)(jnp.arange(text.shape[1]))
        # Two segments exist in BERT's weights; a report is one, always segment 0.
        segment = self.param("segments", init, (2, self.width)).astype(self.dtype)
        x = words + positions[None] + segment[None, :1]
        if context is not None:
            x += context.astype(self.dtype)[:, None]
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layers = transformer.over_layers(Layer, self.depth, self.remat, self.unrolled)
        x, _ = layers(self.heads, self.mlp_width, self.dtype, self.dropout, train, name="layers")(x, text_mask)
        return TextOutput(self._pool(x, text_mask), x)

    def _pool(self, x: Float[Array, "b l d"], mask: TextMask) -> Float[Array, "b d"]:
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "mean":
            weight = mask.astype(x.dtype)[..., None]
            return jnp.sum(x * weight, axis=1) / jnp.sum(weight, axis=1)
        raise ValueError(f"pooling is cls or mean, not {self.pooling!r}")
