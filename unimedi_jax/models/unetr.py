"""UNETR's decoder (Hatamizadeh et al., WACV 2022, arXiv 2103.10504) with strides that follow the patch.

MONAI's network upsamples by 2 along every axis, which fits patches of 16 x 16 x 16 alone. Here every axis is doubled as
often as its patch length needs, the deepest stages first: (4, 16, 16) gives (2, 2, 2) twice, then (1, 2, 2) twice.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float

STAGES = 4
Stride = tuple[int, int, int]


def strides(patch: Sequence[int]) -> list[Stride]:
    """Upsampling of decoder5 to decoder2, deepest first; their product is the patch."""
    if any(2 ** int(math.log2(p)) != p for p in patch):
        raise ValueError(f"UNETR needs patch lengths that are powers of 2, not {tuple(patch)}")
    table = np.ones((STAGES, len(patch)), int)
    for axis, length in enumerate(patch):
        for double in range(int(math.log2(length))):
            table[double % STAGES, axis] *= 2
    return [tuple(int(s) for s in row) for row in table]


class Unetr(nn.Module):
    """Volume, three hidden states of the ViT and its final tokens to logits at voxel resolution."""

    classes: int
    grid: tuple[int, int, int]
    patch: tuple[int, int, int]
    features: int = 16
    norm: bool = False  # of the states, which UNETR takes raw: their channels then differ by orders of magnitude
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, volume: Float[Array, "b z y x"], hidden: Sequence[Float[Array, "b n d"]], tokens: Float[Array, "b n d"]
    ) -> Float[Array, "b z y x c"]:
        """`hidden`: outputs of the blocks at a quarter, half and three quarters of the depth, not normalised."""
        f, steps = self.features, strides(self.patch)

        def spatial(x: Array) -> Array:
            x = x.reshape(x.shape[0], *self.grid, x.shape[-1])
            return (instance_norm(x) if self.norm else x).astype(self.dtype)

        skips = [Residual(f, self.dtype, name="encoder1")(volume[..., None].astype(self.dtype))]
        for number, (state, ups) in enumerate(zip(hidden, (3, 2, 1), strict=True), start=2):
            width = f * 2 ** (number - 1)
            skips.append(Upward(width, steps[:ups], self.dtype, name=f"encoder{number}")(spatial(state)))
        x = spatial(tokens)
        for number, step in zip((5, 4, 3, 2), steps, strict=True):
            skip = skips[number - 2]
            x = Up(skip.shape[-1], step, self.dtype, name=f"decoder{number}_up")(x)
            x = Residual(skip.shape[-1], self.dtype, name=f"decoder{number}")(jnp.concatenate([x, skip], axis=-1))
        return nn.Dense(self.classes, dtype=jnp.float32, name="logits")(x)


class Up(nn.Module):
    """Transposed convolution whose kernel is its stride, without bias: a Dense layer, and its outputs put in place."""

    features: int
    stride: Stride
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b z y x c"]) -> Float[Array, "b zs ys xs f"]:
        batch, *space, _ = x.shape
        x = nn.Dense(math.prod(self.stride) * self.features, use_bias=False, dtype=self.dtype, name="kernel")(x)
        x = x.reshape(batch, *space, *self.stride, self.features)
        x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return x.reshape(batch, *(n * s for n, s in zip(space, self.stride, strict=True)), self.features)


class Upward(nn.Module):
    """A hidden state brought up to the resolution of its skip: `Up`, then `Up` and `Residual` for each further step."""

    features: int
    steps: Sequence[Stride]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b z y x c"]) -> Float[Array, "b zs ys xs f"]:
        x = Up(self.features, self.steps[0], self.dtype, name="up0")(x)
        for number, step in enumerate(self.steps[1:], start=1):
            x = Up(self.features, step, self.dtype, name=f"up{number}")(x)
            x = Residual(self.features, self.dtype, name=f"block{number}")(x)
        return x


class Residual(nn.Module):
    """Two 3 x 3 x 3 convolutions with instance norm around a shortcut, a 1 x 1 x 1 one where the widths differ."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b z y x c"]) -> Float[Array, "b z y x f"]:
        y = instance_norm(Conv(self.features, self.dtype, name="conv1")(x))
        y = instance_norm(Conv(self.features, self.dtype, name="conv2")(nn.leaky_relu(y, 0.01)))
        if x.shape[-1] != self.features:
            x = instance_norm(nn.Dense(self.features, use_bias=False, dtype=self.dtype, name="conv3")(x))
        return nn.leaky_relu(x + y, 0.01)


class Conv(nn.Module):
    """A 3 x 3 x 3 convolution without bias, computed as one of 3 x 3 over each slice and its two neighbours.

    On a CPU that is three times as fast as XLA's convolutions in 3D, forward and backward.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b z y x c"]) -> Float[Array, "b z y x f"]:
        batch, slices, *plane, channels = x.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, 3, channels, self.features)).astype(self.dtype)
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        x = jnp.concatenate([padded[:, i : i + slices] for i in range(3)], axis=-1)
        kernel = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3 * channels, self.features)
        x, order = x.reshape(-1, *plane, 3 * channels), ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)
        return x.reshape(batch, slices, *plane, self.features)


def instance_norm(x: Float[Array, "b z y x c"]) -> Float[Array, "b z y x c"]:
    """Each channel of each case to mean 0 and variance 1, without scale or shift."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=(1, 2, 3), keepdims=True)
    variance = jnp.var(wide, axis=(1, 2, 3), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)
