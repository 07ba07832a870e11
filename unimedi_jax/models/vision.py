"""The vision tower: one tokenizer for images, one for volumes, one ViT for both."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.models import attention, linear, scores, tokenizer, transformer
from unimedi_jax.typing import Array, Bool, Float, Int

EPSILON = 1e-6  # LayerNorm of ViT (timm)
Hidden = Bool[Array, "b n"] | None  # True where the mask token stands for the content (iBOT); the position stays
Lateral = Bool[Array, " b"] | None  # True of an X-ray from the side; None: all are frontal


def sincos(grid: tuple[int, ...], width: int, longest: float = 100.0) -> Float[np.ndarray, "*grid d"]:
    """Sines and cosines of the position along each axis, in equal shares of the width (MoCo v3, arXiv 2104.02057).

    Neighbours start alike and distances differ, which tables of small noise have to learn first. Periods run from 2 pi
    to 2 pi `longest` cells. What does not divide over the axes stays zero.
    """
    count = width // (2 * len(grid))
    frequencies = longest ** -(np.arange(count) / count)
    angles = np.indices(grid)[..., None] * frequencies  # (axis, *grid, count)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    table = np.concatenate(list(waves), axis=-1)
    # Not traced: Flax makes a parameter's initial value at every application, to check its shape.
    return np.pad(table, [(0, 0)] * len(grid) + [(0, width - table.shape[-1])]).astype(np.float32)


class Encoded(NamedTuple):
    """What the ViT says about a sequence of tokens."""

    cls: Float[Array, "b d"]  # after the final norm
    patches: Float[Array, "b n d"]  # after the final norm, without CLS and registers
    scores: Float[Array, "b n"] | None  # eq. 1: CLS attention, by default its mean over layers and heads
    hidden: Float[Array, "layers b n d"] | None = None  # the patches after each block, not normalised


class Block(nn.Module):
    """Pre-norm transformer layer; hands out, if asked, its part of eq. 1 and its output as the scan's outputs."""

    heads: int
    mlp_width: int
    dtype: Any
    scoring: scores.Scoring | None
    attention: str
    hidden: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], _: None) -> tuple[Array, tuple[scores.Part | None, Array | None]]:
        x = placement.shard_batch(x)
        norm = dict(epsilon=EPSILON, dtype=self.dtype)
        attention = transformer.Attention(self.heads, self.dtype, self.scoring, self.attention, name="attention")
        attended, part = attention(nn.LayerNorm(name="norm1", **norm)(x), stream=x)
        x = x + attended
        x = x + transformer.Mlp(self.mlp_width, self.dtype, name="mlp")(nn.LayerNorm(name="norm2", **norm)(x))
        return x, (part, x if self.hidden else None)


class Trunk(nn.Module):
    """The shared ViT: CLS and tokens through all layers and the final norm."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    dtype: Any
    scoring: scores.Scoring = scores.Scoring()
    attention: str = "xla"
    remat: str = "none"
    unrolled: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], with_scores: bool, hidden: bool = False
    ) -> tuple[Array, Array | None, Array | None]:
        layers = transformer.over_layers(Block, self.depth, self.remat, self.unrolled)
        options = self.dtype, self.scoring if with_scores else None, self.attention, hidden
        x, (parts, states) = layers(self.heads, self.mlp_width, *options, name="blocks")(x, None)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        return x, None if parts is None else self.scoring.combine(parts, self.attention), states


class VisionTower(nn.Module):
    """T_2D, T_3D, position tables, CLS and the shared ViT.

    The tokenizers are linear maps of flattened patches, which is what a convolution with kernel = stride does; with
    `subpatch_2d` and `subpatch_3d` these add what they make of the pieces of each patch.
    X-rays have one channel: an RGB kernel on replicated grey equals its sum over the channels.
    Positions are learned tables, added before any token is dropped; another grid than the one they were
    made for gets the interpolated table. They start as small noise ("normal") or as `sincos` ("sincos").
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    image_grid: tuple[int, int]
    volume_grid: tuple[int, int, int]
    dtype: Any = jnp.bfloat16
    type_embedding: bool = False  # marks 2D and 3D; the paper names none
    lateral_type: bool = False  # marks lateral X-rays; frontal ones, and slices, stay as they are without it
    slice_embedding: bool = False  # marks the depth layer that a slice was taken from; the paper names none
    scoring: scores.Scoring = scores.Scoring()
    registers: int = 0  # learnt tokens after CLS, which nothing reads ("Vision Transformers Need Registers")
    attention: str = "xla"
    remat: str = "none"
    unrolled: bool = False
    position_init: str = "normal"
    subpatch_2d: tokenizer.SubPatches | None = None
    subpatch_3d: tokenizer.SubPatches | None = None

    def setup(self) -> None:
        width = self.width
        init = transformer.init(width)
        starts = {"normal": init, "sincos": lambda _, shape: jnp.asarray(sincos(shape[:-1], width))}
        if self.attention not in attention.KINDS:
            raise ValueError(f"attention must be one of {', '.join(attention.KINDS)}, not {self.attention!r}")
        if self.position_init not in starts:
            raise ValueError(f"position_init must be one of {sorted(starts)}, not {self.position_init!r}")
        start = starts[self.position_init]
        dense = dict(dtype=self.dtype, kernel_init=init)
        self.patch_2d = linear.Dense(width, **dense)
        self.patch_3d = linear.Dense(width, **dense)
        image, volume = self.image_grid, self.volume_grid
        self.cls = self.param("cls", init, (width,))
        self.position_cls = self.param("position_cls", init, (width,))
        self.position_2d = self.param("position_2d", start, (*image, width))
        self.position_3d = self.param("position_3d", start, (*volume, width))
        if self.registers:
            self.register_tokens = self.param("registers", init, (self.registers, width))
        self.mask_token = self.param("mask_token", init, (width,))
        if self.type_embedding:
            self.type_2d = self.param("type_2d", init, (width,))
            self.type_3d = self.param("type_3d", init, (width,))
        if self.lateral_type:
            self.type_lateral = self.param("type_lateral", init, (width,))
        if self.slice_embedding:
            self.depth_of_slice = self.param("depth_of_slice", init, (volume[0], width))
        size = width, self.depth, self.heads, self.mlp_width
        scoring = self.scoring._replace(prefix=self.prefix)
        self.trunk = Trunk(*size, self.dtype, scoring, self.attention, self.remat, self.unrolled)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 1 + self.registers

    def embed_image(
        self,
        pixels: Float[Array, "b n v"],
        grid: tuple[int, int] | None = None,
        hidden: Hidden = None,
        lateral: Lateral = None,
    ) -> Float[Array, "b n d"]:
        """T_2D: patches of an X-ray or of a CT slice, normalised to [-1, 1], as tokens with positions.

        `lateral` takes a tower with `lateral_type`.
        """
        tokens = self._hide(_tokenize(pixels, self.patch_2d, self.subpatch_2d), hidden)
        tokens += self._position(self.position_2d, grid or self.image_grid)
        if self.type_embedding:
            tokens += self._everywhere(self.type_2d)
        if lateral is not None:
            tokens += jnp.where(lateral[:, None, None], self._everywhere(self.type_lateral), 0)
        return tokens

    def embed_slices(
        self,
        pixels: Float[Array, "b s n v"],
        layers: Int[Array, "b s"],
        grid: tuple[int, int] | None = None,
        hidden: Bool[Array, "b sn"] | None = None,
    ) -> Float[Array, "b sn d"]:
        """T_2D on each of s slices, put one behind the other; `layers`: the depth layer each was taken from."""
        batch, slices, n, _ = pixels.shape
        hidden = None if hidden is None else hidden.reshape(batch * slices, n)
        tokens = self.embed_image(pixels.reshape(batch * slices, n, -1), grid, hidden)
        tokens = tokens.reshape(batch, slices, n, -1)
        if self.slice_embedding:
            tokens += self.depth_of_slice.astype(self.dtype)[layers][:, :, None]
        return tokens.reshape(batch, slices * n, -1)

    def embed_volume(
        self, voxels: Float[Array, "b n v"], grid: tuple[int, int, int] | None = None, hidden: Hidden = None
    ) -> Float[Array, "b n d"]:
        """T_3D: patches of a volume, normalised to [-1, 1], as tokens with positions."""
        tokens = self._hide(_tokenize(voxels, self.patch_3d, self.subpatch_3d), hidden)
        tokens += self._position(self.position_3d, grid or self.volume_grid)
        return tokens + self._everywhere(self.type_3d) if self.type_embedding else tokens

    def encode(self, tokens: Float[Array, "b n d"], scores: bool = False, hidden: bool = False) -> Encoded:
        """CLS and the tokens through the shared ViT; with `scores` eq. 1, with `hidden` every layer beside them."""
        cls = (self.cls + self.position_cls).astype(self.dtype)
        parts = [jnp.broadcast_to(cls, (tokens.shape[0], 1, self.width)), tokens]
        if self.registers:
            registers = self.register_tokens.astype(self.dtype)[None]
            parts.insert(1, jnp.broadcast_to(registers, (tokens.shape[0], *registers.shape[1:])))
        x, rows, states = self.trunk(jnp.concatenate(parts, axis=1), scores, hidden)
        patches = slice(self.prefix, None)
        return Encoded(x[:, 0], x[:, patches], rows, None if states is None else states[:, :, patches])

    def _hide(self, tokens: Array, hidden: Array | None) -> Float[Array, "b n d"]:
        if hidden is None:
            return tokens
        return jnp.where(hidden[..., None], self._everywhere(self.mask_token), tokens)

    def _everywhere(self, vector: Float[Array, " d"]) -> Float[Array, "1 1 d"]:
        return vector.astype(self.dtype)[None, None]

    def _position(self, table: Array, grid: tuple[int, ...]) -> Float[Array, "1 n d"]:
        if tuple(grid) != table.shape[:-1]:
            # Corners stay half a cell from the border (align_corners=False), as for any resized image.
            method = "cubic" if len(grid) == 2 else "linear"
            table = jax.image.resize(table, (*grid, self.width), method, antialias=False)
        return table.reshape(1, -1, self.width).astype(self.dtype)


def _tokenize(x: Array, patch: nn.Module, subpatch: nn.Module | None) -> Float[Array, "b n d"]:
    return patch(x) if subpatch is None else patch(x) + subpatch(x)
