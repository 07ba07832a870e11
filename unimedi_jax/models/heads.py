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


class Local(nn.Module):
    """Patches or words, each by itself, as vectors of the joint space: float32, of any length.

    One linear map without bias (GLoRIA's local embedding); with `hidden` units Dense, LayerNorm, ReLU, Dense. The
    latter is MGCA's, whose BatchNorms would average over padded words, and over films and scans.
    """

    width: int
    of: str  # "patches" or "words"
    hidden: int = 0
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        dense = dict(dtype=self.dtype, kernel_init=nn.initializers.lecun_normal())
        if not self.hidden:
            return nn.Dense(self.width, use_bias=False, name="fc", **dense)(x).astype(jnp.float32)
        x = nn.Dense(self.hidden, name="fc1", **dense)(x)
        x = nn.relu(nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x))
        return nn.Dense(self.width, name="fc2", **dense)(x).astype(jnp.float32)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self({"patches": patches, "words": words}[self.of])


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
