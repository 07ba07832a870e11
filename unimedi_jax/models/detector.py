"""YOLOv3's head (Redmon & Farhadi, arXiv 1804.02767) over a feature pyramid made of one ViT map in MGCA's sizes.

How UniMedI makes three scales of one is not known. Here as in ViTDet (Li et al., arXiv 2203.16527): half the stride by
a transposed convolution, the stride as it is, twice the stride by max pooling.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float

# (height, width) in pixels of a 416 x 416 picture, coarsest scale first.
ANCHORS = (((90, 116), (198, 156), (326, 373)), ((61, 30), (45, 62), (119, 59)), ((13, 10), (30, 16), (23, 33)))
BASE = 416
STRIDES = (2.0, 1.0, 0.5)  # of the scales, in patches


class Boxes(NamedTuple):
    """Every anchor's answer in parts of the picture: centre and size as (y, x, h, w), and its two logits."""

    place: Float[Array, "b n 4"]
    objectness: Float[Array, "b n"]
    finding: Float[Array, "b n"]


class Detector(nn.Module):
    """Patch tokens to raw answers of three scales, coarsest first: (b, y, x, 3, 6) = offsets y x, sizes h w, logits."""

    grid: tuple[int, int]
    widths: tuple[int, int, int] = (512, 256, 128)

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"], train: bool = False) -> list[Float[Array, "b _y _x 3 6"]]:
        x = tokens.astype(jnp.float32).reshape(tokens.shape[0], *self.grid, tokens.shape[-1])
        coarse, middle, fine = self.widths
        maps = (
            # A last row without a partner is pooled alone: cells begin at multiples of their stride, come what may.
            nn.max_pool(nn.Dense(4 * coarse, name="pool")(x), (2, 2), (2, 2), padding="SAME"),
            nn.Dense(4 * middle, name="same")(x),
            nn.ConvTranspose(4 * fine, (2, 2), (2, 2), name="up")(x),
        )
        answers, above = [], None
        for scale, (width, x) in enumerate(zip(self.widths, maps, strict=True)):
            if above is not None:
                above = Block(width, 1, name=f"lateral{scale}")(above, train)
                above = above.repeat(2, axis=1).repeat(2, axis=2)[:, : x.shape[1], : x.shape[2]]
                x = jnp.concatenate([above, x], axis=-1)
            for number in range(6):
                kernel = (1, 3)[number % 2]
                x = Block(width * (1, 2)[number % 2], kernel, name=f"block{scale}_{number}")(x, train)
                above = x if number == 4 else above
            x = nn.Dense(len(ANCHORS[scale]) * 6, name=f"answer{scale}")(x)
            answers.append(x.reshape(*x.shape[:3], len(ANCHORS[scale]), 6))
        return answers


class Block(nn.Module):
    """Convolution, BatchNorm, LeakyReLU(0.1)."""

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"], train: bool) -> Float[Array, "b y x f"]:
        x = nn.Conv(self.features, (self.kernel,) * 2, use_bias=False, dtype=self.dtype, name="conv")(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm")
        return nn.leaky_relu(norm(x), 0.1)


def anchors(scale: int) -> Float[np.ndarray, "3 2"]:
    """Heights and widths of a scale's anchors in parts of the picture."""
    return np.array(ANCHORS[scale], np.float32) / BASE


def decode(answers: list[Float[Array, "b _y _x 3 6"]], grid: tuple[int, int]) -> Boxes:
    """Boxes of all scales: the centre lies in the anchor's cell, the size is the anchor's times an exponential."""
    parts = []
    for scale, x in enumerate(answers):
        cell = STRIDES[scale] / np.array(grid, np.float32)
        corner = np.stack(np.meshgrid(*map(np.arange, x.shape[1:3]), indexing="ij"), axis=-1)[None, :, :, None]
        centre = (jax.nn.sigmoid(x[..., :2]) + corner) * cell.reshape(1, 1, 1, 1, 2)
        # An untrained exponent must not overflow: no box is larger than e^4 anchors.
        size = jnp.exp(jnp.clip(x[..., 2:4], -8, 4)) * anchors(scale)[None, None, None]
        whole = jnp.concatenate([centre, size, x[..., 4:]], axis=-1)
        parts.append(whole.reshape(len(x), -1, 6))
    boxes = jnp.concatenate(parts, axis=1)
    return Boxes(boxes[..., :4], boxes[..., 4], boxes[..., 5])
