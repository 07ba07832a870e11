"""The part of a tokenizer that a linear map lacks: what is inside a patch, by small pieces of it."""

import math
from typing import Any

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import patches
from unimedi_jax.models import linear
from unimedi_jax.typing import Array, Float


class SubPatches(nn.Module):
    """Dense, GELU, Dense, GELU on each sub-patch of a patch, then all of them and their maximum to the width.

    Added to the linear map of the same patch. A lesion smaller than a patch is lost in a linear map, whose answer is
    an average of its voxels; the maximum over sub-patches holds it wherever in the patch it lies. It sees one patch
    alone, so that tokens can be dropped as before, and is nothing but matrix products: a convolution inside patches
    takes several times as long on a CPU.
    """

    width: int
    patch: tuple[int, ...]
    subpatch: tuple[int, ...]
    hidden: int
    dtype: Any = jnp.bfloat16

    @property
    def count(self) -> int:
        """Sub-patches in a patch."""
        return math.prod(patches.grid(self.patch, self.subpatch))

    @nn.compact
    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        batch, n, _ = x.shape
        pieces = patches.patchify(x.astype(self.dtype).reshape(batch * n, *self.patch), self.subpatch)
        for name in ("fc1", "fc2"):
            pieces = linear.gelu(linear.Dense(self.hidden, dtype=self.dtype, name=name)(pieces))
        strongest = jnp.max(pieces, axis=1).reshape(batch, n, -1)
        joined = jnp.concatenate([pieces.reshape(batch, n, -1), strongest], axis=-1)
        return linear.Dense(self.width, use_bias=False, dtype=self.dtype, name="out")(joined)
