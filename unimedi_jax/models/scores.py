"""Eq. 1: how much CLS attends to each token, from the queries and keys of the layers. No gradient passes through it."""

from typing import NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.models import attention
from unimedi_jax.typing import Array, Bool, Float

KINDS = ("mean", "rollout")
MAD_TO_DEVIATION = 0.6745  # median absolute deviation of a normal distribution, in its standard deviations

# Of one layer. "mean": the row of CLS (b, n) and, where sinks do not count, which tokens do; "rollout": queries, keys.
Part = tuple[Array, Array | None]


class SliceBaseline(nn.Module):
    """The running mean of eq. 2 for each depth layer over CTs: how high a slice scores for its position alone."""

    layers: int
    momentum: float

    def setup(self) -> None:
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.layers,))

    def __call__(self, scores: Float[Array, "b layers"]) -> Float[Array, "b layers"]:
        """The scores without it."""
        return scores - self.mean.value[None]

    def update(self, scores: Float[Array, "b layers"]) -> None:
        """Follows a batch."""
        if not self.is_initializing():
            self.mean.value += (1 - self.momentum) * (jnp.mean(scores, axis=0) - self.mean.value)


class Scoring(NamedTuple):
    """The settings of eq. 1; their defaults are the paper's."""

    cls_key: bool = True  # the softmax runs over CLS, registers and patches; False: over patches alone
    layers: int = 0  # the last so many; 0: all
    kind: str = "mean"  # over layers and heads; "rollout": attention rollout
    sink_norm: float = 0.0  # modified z-score of a token's norm above which it is a sink; 0: there are none
    prefix: int = 1  # tokens before the patches: CLS and registers

    def of_layer(self, q: Float[Array, "b n h k"], k: Float[Array, "b n h k"], x: Float[Array, "b n d"]) -> Part:
        """One layer's part; `x` is the layer's input, before its norm."""
        if self.kind == "rollout":
            return jax.lax.stop_gradient((q, k))
        counted = ~sinks(x[:, self.prefix :], self.sink_norm) if self.sink_norm else None
        return self._row(q, k, counted), counted

    def combine(self, parts: Part, kind: str) -> Float[Array, "b n"]:
        """The scores of the patches from the parts of all layers, stacked; `kind` is one of attention.KINDS."""
        if self.layers:
            parts = jax.tree.map(lambda x: x[-self.layers :], parts)
        if self.kind == "rollout":
            return rollout(*parts, kind)[:, self.prefix :]
        rows, counted = parts
        if counted is None:
            return jnp.mean(rows, axis=0)
        return jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(counted, axis=0), 1)

    def _row(self, q: Array, k: Array, counted: Bool[Array, "b n"] | None) -> Float[Array, "b n"]:
        """CLS attention averaged over the heads. Only that row is computed, never a (heads, n, n) array for it."""
        logits = jnp.einsum("bhk,bnhk->bhn", q[:, 0], k, preferred_element_type=jnp.float32)
        logits *= q.shape[-1] ** -0.5
        if counted is not None:
            patches = jnp.where(counted[:, None], logits[..., self.prefix :], -jnp.inf)
            logits = jnp.concatenate([logits[..., : self.prefix], patches], axis=-1)
        whole = (
            jax.nn.softmax(logits)[..., self.prefix :] if self.cls_key else jax.nn.softmax(logits[..., self.prefix :])
        )
        return jnp.mean(whole, axis=1)


def sinks(x: Float[Array, "b n d"], most: float) -> Bool[Array, "b n"]:
    """Tokens of outlier norm: "Vision Transformers Need Registers" (arXiv 2309.16588) finds that they hold no content.

    That paper's cut of 150 is DINOv2-g's own; here a token is an outlier among those of its image, by the modified
    z-score of Iglewicz and Hoaglin (1993), 0.6745 (norm - median) / median absolute deviation, who advise `most` = 3.5.
    """
    norms = jnp.linalg.norm(x.astype(jnp.float32), axis=-1)
    above = norms - jnp.median(norms, axis=-1, keepdims=True)
    deviation = jnp.median(jnp.abs(above), axis=-1, keepdims=True)
    return MAD_TO_DEVIATION * above > most * deviation


def rollout(q: Float[Array, "l b n h k"], k: Float[Array, "l b n h k"], kind: str) -> Float[Array, "b n"]:
    """CLS's row of attention rollout (Abnar & Zuidema, arXiv 2005.00928): A_L ... A_1, A = (mean of heads + I) / 2.

    One row of that product takes a row times a matrix in each layer, the last layer first. A row times the attention
    matrix is what attention's backward pass does to the values' gradient, so every kernel does it, and none holds more
    for it than in training. What must be held are the queries and keys of the layers.
    """
    heads = q.shape[3]

    def through(row: Float[Array, "b n"], layer: tuple[Array, Array]) -> tuple[Array, None]:
        queries, keys = layer
        values = jnp.zeros_like(keys)
        _, pull = jax.vjp(lambda values: attention.attend(queries, keys, values, kind=kind), values)
        # The row stands in the first channel of each head, all others are zero.
        gradient = values.at[..., 0].set((row / heads)[:, :, None].astype(values.dtype))
        attended = jnp.sum(pull(gradient)[0][..., 0].astype(jnp.float32), axis=-1)
        return (row + attended) / 2, None

    start = jnp.zeros(q.shape[1:3], jnp.float32).at[:, 0].set(1)
    row, _ = jax.lax.scan(through, start, (q, k), reverse=True)
    return row
