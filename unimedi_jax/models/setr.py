"""SETR-PUP (Zheng et al., CVPR 2021, arXiv 2012.15840) on ViT tokens, in MGCA's form: progressive upsampling."""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float


class SetrPup(nn.Module):
    """Patch tokens to logits at pixel resolution: Dense, then conv, BatchNorm, ReLU and x2 for every factor of 2.

    Patches of another size, such as DINOv2's of 14, are doubled beyond it and the logits shrunk to their pixels.
    """

    classes: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    channels: tuple[int, ...] = (512, 256, 128, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"], train: bool = False) -> Float[Array, "b y x c"]:
        stages = math.ceil(math.log2(self.patch[0]))
        if self.patch[0] != self.patch[1] or not 1 <= stages <= len(self.channels):
            raise ValueError(
                f"SETR-PUP needs square patches of 2 to {2 ** len(self.channels)} pixels, not {self.patch}"
            )
        norm = dict(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32)
        batch, _, width = tokens.shape
        x = nn.Dense(width, dtype=self.dtype, name="project")(tokens)
        x = x.reshape(batch, *self.grid, width)
        for stage, channels in enumerate(self.channels[-stages:]):
            x = nn.Conv(channels, (3, 3), dtype=self.dtype, name=f"conv{stage}")(x)
            x = double(nn.relu(nn.BatchNorm(name=f"norm{stage}", **norm)(x)))
        logits = nn.Conv(self.classes, (3, 3), dtype=jnp.float32, name="logits")(x)
        size = [cells * pixels for cells, pixels in zip(self.grid, self.patch, strict=True)]
        if 2**stages == self.patch[0]:
            return logits
        return jax.image.resize(logits, (batch, *size, self.classes), "linear")


def double(x: Float[Array, "b y x c"]) -> Float[Array, "b y2 x2 c"]:
    """Twice the size, bilinear between corners that stay corners (align_corners=True, which jax.image has not)."""
    for axis in (1, 2):
        size = x.shape[axis]
        at = np.linspace(0, size - 1, 2 * size)
        low = np.minimum(at.astype(int), max(size - 2, 0))
        share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = jnp.take(x, low, axis=axis), jnp.take(x, np.minimum(low + 1, size - 1), axis=axis)
        x = below * (1 - share) + above * share
    return x
