"""Heads on top of the towers: projection into the joint space, and DINO's prototypes."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

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
    by_modality: bool = False  # BatchNorms of their own for films and scans
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool = False, modality: str = "") -> Float[Array, "b e"]:
        dense = dict(dtype=self.dtype, kernel_init=nn.initializers.lecun_normal())
        if self.kind == "linear":
            return unit(nn.Dense(self.width, use_bias=False, name="fc", **dense)(x))
        if self.kind != "mlp":
            raise ValueError(f"projection is mlp or linear, not {self.kind!r}")
        own = f"_{modality}" if self.by_modality and modality else ""
        # Statistics in float32: a batch mean in bfloat16 keeps three digits.
        norm = dict(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32)
        x = nn.Dense(self.hidden, name="fc1", **dense)(x)
        x = nn.relu(nn.BatchNorm(name=f"norm1{own}", **norm)(x))
        x = nn.Dense(self.width, name="fc2", **dense)(x)
        return unit(nn.BatchNorm(use_bias=False, use_scale=False, name=f"norm2{own}", **norm)(x))


class DinoHead(nn.Module):
    """MLP, unit length, weight-normalised linear map to prototype logits (DINO, arXiv 2104.14294, appendix C).

    The gain of the weight normalisation is fixed to 1, as in DINO's default. Logits are float32.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b p"]:
        init = nn.initializers.truncated_normal(0.02)  # unit length follows: the scale does not matter
        dense = dict(dtype=self.dtype, kernel_init=init)
        x = nn.gelu(nn.Dense(self.hidden, name="fc1", **dense)(x), approximate=False)
        x = nn.gelu(nn.Dense(self.hidden, name="fc2", **dense)(x), approximate=False)
        x = unit(nn.Dense(self.bottleneck, name="fc3", **dense)(x)).astype(self.dtype)
        kernel = self.param("last_layer", init, (self.bottleneck, self.prototypes))
        kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return jnp.dot(x, kernel.astype(self.dtype), preferred_element_type=jnp.float32)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self(patches)


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
    inputs: int = 0  # width of what goes in; 0: the vision tower's
    last_norm: bool = False  # another norm at the end, without a scale (MoCo v3)
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b *c d"]) -> Float[Array, "b *c e"]:
        dense = dict(use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.lecun_normal())
        for i, width in enumerate(self.widths[:-1], 1):
            x = batch_norm(nn.Dense(width, name=f"fc{i}", **dense)(x))
            x = nn.relu(Affine(name=f"norm{i}")(x))
        x = nn.Dense(self.widths[-1], name=f"fc{len(self.widths)}", **dense)(x)
        return batch_norm(x) if self.last_norm else x.astype(jnp.float32)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self(jnp.zeros((1, self.inputs or patches.shape[-1])))


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
        return jnp.minimum(jnp.exp(log), self.most)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self()
