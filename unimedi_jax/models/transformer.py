"""Self-attention, MLP and the scan over layers that both towers share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.models import attention, linear, scores
from unimedi_jax.typing import Array, Bool, Float


def init(width: int) -> nn.initializers.Initializer:
    """Truncated normal of 0.02 at ViT-B's and BERT-base's width of 768, and as 1 / sqrt(width) at others.

    At a width of 128 a spread of 0.02 leaves every layer close to the identity, and training stands still for
    hundreds of steps.
    """
    return nn.initializers.truncated_normal(0.02 * (768 / width) ** 0.5)


def dense(x: Float[Array, "*b d"], features: int, dtype: Any, name: str) -> Float[Array, "*b f"]:
    """A linear map of x, a module of its own in the one that calls it; its weights start as `init` says."""
    return linear.Dense(features, dtype=dtype, kernel_init=init(x.shape[-1]), name=name)(x)


REMAT = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # recompute all but matmuls
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only the input of each layer
}


def over_layers(block: type[nn.Module], depth: int, remat: str, unrolled: bool = False) -> Callable[..., nn.Module]:
    """A stack of `depth` equal blocks as one scanned module: parameters get a leading layer axis.

    `remat` names what the backward pass recomputes, see `REMAT`. `unrolled`: the compiler sees the layers one behind
    the other and no loop; what the backward pass needs is then not copied into stacks, which costs a GPU a third of
    its traffic, and compiling takes longer.
    """
    if remat not in REMAT:
        raise ValueError(f"remat must be one of {sorted(REMAT)}, not {remat!r}")
    if REMAT[remat] is not None:
        # CSE cannot undo rematerialisation inside a loop, so its costly prevention is not needed there.
        block = nn.remat(block, policy=REMAT[remat], prevent_cse=unrolled)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=depth,
        unroll=depth if unrolled else 1,
    )


class Attention(nn.Module):
    """Multi-head self-attention with q, k, v as thirds of one projection, heads contiguous inside each (timm).

    Returns the attended tokens and, with `scoring`, the layer's part of eq. 1, for which `stream` is the layer's input.
    """

    heads: int
    dtype: Any
    scoring: scores.Scoring | None = None
    kind: str = "xla"  # one of attention.KINDS
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | None = None,
        train: bool = False,
        stream: Float[Array, "b n d"] | None = None,
    ) -> tuple[Float[Array, "b n d"], scores.Part | None]:
        batch, n, width = x.shape
        if width % self.heads:
            raise ValueError(f"width {width} is not divisible by {self.heads} heads")
        qkv = dense(x, 3 * width, self.dtype, "qkv")
        q, k, v = jnp.moveaxis(qkv.reshape(batch, n, 3, self.heads, width // self.heads), 2, 0)
        if self.dropout and train:
            drop = nn.Dropout(self.dropout, deterministic=False)
            out = attention.plain(q, k, v, mask, drop)
        else:
            out = attention.attend(q, k, v, mask, self.kind)
        out = dense(out.reshape(batch, n, width), width, self.dtype, "out")
        return out, self.scoring.of_layer(q, k, x if stream is None else stream) if self.scoring else None


class Mlp(nn.Module):
    """Dense, exact GELU, Dense."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        dense = dict(dtype=self.dtype, kernel_init=init(x.shape[-1]))
        hidden = linear.Dense(self.hidden, name="fc1", **dense)(x)
        return linear.Dense(x.shape[-1], name="fc2", **dense)(linear.gelu(hidden))
