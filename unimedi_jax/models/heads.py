"""Heads on top of the towers: projection into the joint space, DINO's prototypes, linear maps, queries to tokens."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.models import attention, linear, transformer
from unimedi_jax.typing import Array, Float


def unit(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """Vectors of unit length, in float32."""
    x = x.astype(jnp.float32)
    # The floor stands under the root: a zero vector, what BatchNorm makes of a batch of one, then has a gradient.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


class Sizes(NamedTuple):
    """Sizes of the heads that an objective trains beside the towers."""

    prototypes_cls: int = 65536
    prototypes_patch: int = 8192
    hidden: int = 2048
    bottleneck: int = 256


class Projection(nn.Module):
    """CLS to a unit vector of the joint space.

    "mlp": Dense, BatchNorm, ReLU, Dense, BatchNorm without scale (MGCA's global embedding). Under `jit` the batch
    statistics are those of the global batch. "linear": one Dense without bias (CLIP, A-CLIP).
    """

    width: int
    hidden: int = 2048
    kind: str = "mlp"
    by_modality: bool = False  # BatchNorms of their own for X-rays and CTs
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool = False, modality: str = "") -> Float[Array, "b e"]:
        if self.kind == "linear":
            return unit(linear.Dense(self.width, use_bias=False, dtype=self.dtype, name="fc")(x))
        if self.kind != "mlp":
            raise ValueError(f"projection is mlp or linear, not {self.kind!r}")
        own = f"_{modality}" if self.by_modality and modality else ""
        # Statistics in float32: a batch mean in bfloat16 keeps three digits.
        norm = dict(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32)
        x = linear.Dense(self.hidden, dtype=self.dtype, name="fc1")(x)
        x = nn.relu(nn.BatchNorm(name=f"norm1{own}", **norm)(x))
        x = linear.Dense(self.width, dtype=self.dtype, name="fc2")(x)
        return unit(nn.BatchNorm(use_bias=False, use_scale=False, name=f"norm2{own}", **norm)(x))


class Local(nn.Module):
    """Patches or words, each by itself, as vectors of the joint space: float32, of any length.

    One linear map without bias (GLoRIA's local embedding); with `hidden` units Dense, LayerNorm, ReLU, Dense. The
    latter is MGCA's, whose BatchNorms would average over padded words, and over X-rays and CTs.
    """

    width: int
    hidden: int = 0
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        if not self.hidden:
            return linear.Dense(self.width, use_bias=False, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
        x = linear.Dense(self.hidden, dtype=self.dtype, name="fc1")(x)
        x = nn.relu(nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x))
        return linear.Dense(self.width, dtype=self.dtype, name="fc2")(x).astype(jnp.float32)


class DinoHead(nn.Module):
    """MLP, unit length, weight-normalised linear map to prototype logits (DINO, arXiv 2104.14294, appendix C).

    The gain of the weight normalisation is fixed to 1, as in DINO's default. Logits are float32.
    With `norm` a BatchNorm follows each hidden layer (DINO's `use_bn_in_head`): over all rows at hand, patches too.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: Any = jnp.bfloat16
    norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b p"]:
        init = nn.initializers.truncated_normal(0.02)  # unit length follows: the scale does not matter
        dense = dict(dtype=self.dtype, kernel_init=init)
        for i in (1, 2):
            x = linear.Dense(self.hidden, name=f"fc{i}", **dense)(x)
            if self.norm:
                rows = batch_norm(x.reshape(-1, self.hidden)).reshape(x.shape)
                x = Affine(name=f"norm{i}")(rows).astype(self.dtype)
            x = linear.gelu(x)
        x = unit(linear.Dense(self.bottleneck, name="fc3", **dense)(x)).astype(self.dtype)
        kernel = self.param("last_layer", init, (self.bottleneck, self.prototypes))
        kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return jnp.dot(x, kernel.astype(self.dtype), preferred_element_type=jnp.float32)


def batch_norm(x: Float[Array, "b *c d"], epsilon: float = 1e-5) -> Float[Array, "b *c d"]:
    """Zero mean and unit variance over the rows of the batch, in float32; nothing is remembered for inference.

    Views along further axes are normalised apart. Under `jit` the batch is the global one.
    """
    x = x.astype(jnp.float32)
    return (x - jnp.mean(x, axis=0, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, axis=0, keepdims=True) + epsilon)


class NormedMlp(nn.Module):
    """Layers without bias, BatchNorm and ReLU between them, as in SimCLR, BYOL and MoCo v3; float32 comes out.

    The norms know the batch at hand alone, which is what they use in training; these heads serve nothing else.
    """

    widths: tuple[int, ...]  # of what each layer gives
    last_norm: bool = False  # another norm at the end, without a scale (MoCo v3)
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b *c d"]) -> Float[Array, "b *c e"]:
        dense = dict(use_bias=False, dtype=self.dtype)
        for i, width in enumerate(self.widths[:-1], 1):
            x = batch_norm(linear.Dense(width, name=f"fc{i}", **dense)(x))
            x = nn.relu(Affine(name=f"norm{i}")(x))
        x = linear.Dense(self.widths[-1], name=f"fc{len(self.widths)}", **dense)(x)
        return batch_norm(x) if self.last_norm else x.astype(jnp.float32)


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x * scale.reshape(shape) + bias.reshape(shape)


class Scale(nn.Module):
    """A learnt factor of similarities, at most `most`: CLIP's temperature turned over, in logarithms."""

    start: float
    most: float = 100.0

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        log = self.param("log", nn.initializers.constant(jnp.log(self.start)), ())
        # The excess is taken off, not cut: a cut has no gradient, and one step too far would hold it there for good.
        excess = jnp.maximum(log - jnp.log(self.most), 0)
        return jnp.exp(log - jax.lax.stop_gradient(excess))


class Linear(nn.Module):
    """A linear map of image tokens, or of a report's words: to pixels, to another width, to a vocabulary. float32."""

    features: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b f"]:
        return transformer.dense(x, self.features, self.dtype, "out").astype(jnp.float32)


class Cross(nn.Module):
    """Multi-head attention of queries to the tokens of a memory."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b q d"], memory: Float[Array, "b n d"]) -> Float[Array, "b q d"]:
        width = x.shape[-1]
        q = transformer.dense(x, width, self.dtype, "q")
        k, v = jnp.split(transformer.dense(memory, 2 * width, self.dtype, "kv"), 2, axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1) for part in (q, k, v))
        out = attention.attend(q, k, v)
        return transformer.dense(out.reshape(x.shape), width, self.dtype, "out")


class DecoderLayer(nn.Module):
    """Pre-norm: queries attend to each other, then to the memory, then an MLP of four times the width."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b q d"], memory: Float[Array, "b n d"]) -> tuple[Array, None]:
        x = placement.shard_batch(x)
        norm = dict(epsilon=1e-6, dtype=self.dtype)
        among = transformer.Attention(self.heads, self.dtype, name="attention")
        x = x + among(nn.LayerNorm(name="norm1", **norm)(x))[0]
        x = x + Cross(self.heads, self.dtype, name="cross")(nn.LayerNorm(name="norm2", **norm)(x), memory)
        x = x + transformer.Mlp(4 * x.shape[-1], self.dtype, name="mlp")(nn.LayerNorm(name="norm3", **norm)(x))
        return x, None


class QueryDecoder(nn.Module):
    """Queries that attend to the tokens of an image or to a report, the memory.

    The queries are handed in, or are `learnt` vectors of its own. The memory of each side ("image", "report") has its
    own map into the decoder's width.
    """

    width: int
    depth: int
    heads: int
    learnt: int = 0  # number of learnt queries; 0: they are handed in
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(
        self, memory: Float[Array, "b n m"], queries: Float[Array, "q w"] | None = None, side: str = "image"
    ) -> Float[Array, "b q d"]:
        norm = dict(epsilon=1e-6, dtype=self.dtype)
        memory = transformer.dense(memory, self.width, self.dtype, side)
        memory = nn.LayerNorm(name="norm_memory", **norm)(memory)
        if queries is None:
            x = self.param("learnt_queries", nn.initializers.normal(1.0), (self.learnt, self.width)).astype(self.dtype)
        else:
            x = transformer.dense(queries, self.width, self.dtype, "queries")
        x = jnp.broadcast_to(x[None], (len(memory), *x.shape))
        layers = transformer.over_layers(DecoderLayer, self.depth, "none")
        x, _ = layers(self.heads, self.dtype, name="layers")(x, memory)
        return nn.LayerNorm(name="norm", **norm)(x)
