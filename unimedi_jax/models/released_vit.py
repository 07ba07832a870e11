"""ViTs that others have released, for inference and fine-tuning on X-rays.

One module for what their files differ in: registers, rotary positions (DINOv3), SwiGLU (DINOv2-g, DINOv3), no CLS and
attention pooling (SigLIP). LayerScales are folded into the projections before them when a file is read.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.models import attention, linear, transformer, vision
from unimedi_jax.models.scores import Part, Scoring
from unimedi_jax.typing import Array, Float

POOLS = ("cls", "mean", "attention")
Rotation = tuple[Float[Array, "n k"], Float[Array, "n k"]] | None  # cosines and sines of every token, or no rotation
ACTIVATIONS = {"gelu": linear.gelu, "gelu_tanh": functools.partial(nn.gelu, approximate=True), "swiglu": nn.silu}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a file of weights and its settings say about its ViT."""

    width: int
    depth: int
    heads: int
    mlp_width: int  # of one of SwiGLU's halves
    patch: int  # pixels, square
    grid: tuple[int, int]  # tokens along y and x
    has_cls: bool = True
    registers: int = 0  # after CLS
    mlp: str = "gelu"  # or "gelu_tanh", "swiglu"
    epsilon: float = 1e-6  # of the LayerNorms
    rope: float = 0.0  # base of DINOv3's rotary positions; 0: a table of positions
    pool: str = "cls"  # what stands for the image: CLS, the mean of the patches, or SigLIP's attention pooling

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.has_cls + self.registers


class Mlp(nn.Module):
    """Dense, activation, Dense; with SwiGLU the first half of the first map gates the second."""

    hidden: int
    kind: str

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        gated = self.kind == "swiglu"
        hidden = linear.Dense(self.hidden * (2 if gated else 1), name="fc1")(x)
        if gated:
            gate, hidden = jnp.split(hidden, 2, axis=-1)
            hidden = ACTIVATIONS[self.kind](gate) * hidden
        else:
            hidden = ACTIVATIONS[self.kind](hidden)
        return linear.Dense(x.shape[-1], name="fc2")(hidden)


class Block(nn.Module):
    """Pre-norm transformer layer; hands out, if asked, its part of eq. 1 and its output as the scan's outputs."""

    shape: Architecture
    scoring: Scoring | None
    hidden: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], rotation: Rotation) -> tuple[Array, Any]:
        x = placement.shard_batch(x)
        attended, part = self._attend(self._norm("norm1")(x), rotation, x)
        x = x + attended
        x = x + Mlp(self.shape.mlp_width, self.shape.mlp, name="mlp")(self._norm("norm2")(x))
        return x, (part, x if self.hidden else None)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.shape.epsilon, name=name)

    def _attend(self, x: Array, rotation: Rotation, stream: Array) -> tuple[Array, Part | None]:
        batch, n, width = x.shape
        qkv = linear.Dense(3 * width, name="qkv")(x).reshape(batch, n, 3, self.shape.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        if rotation is not None:
            q, k = (rotate(part, rotation) for part in (q, k))
        out = linear.Dense(width, name="out")(attention.attend(q, k, v).reshape(batch, n, width))
        return out, self.scoring.of_layer(q, k, stream) if self.scoring else None


class AttentionPool(nn.Module):
    """SigLIP's: one learnt query over all tokens, then an MLP beside it; the query's attention comes with it."""

    shape: Architecture

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b d"], Float[Array, "b n"]]:
        batch, _, width = x.shape
        query = self.param("query", transformer.init(width), (width,))
        split = (batch, -1, self.shape.heads, width // self.shape.heads)
        q = linear.Dense(width, name="q")(jnp.broadcast_to(query, (batch, 1, width))).reshape(split)
        k, v = jnp.split(linear.Dense(2 * width, name="kv")(x), 2, axis=-1)
        k, v = k.reshape(split), v.reshape(split)
        logits = jnp.einsum("bqhk,bnhk->bhn", q, k) * q.shape[-1] ** -0.5
        out = linear.Dense(width, name="out")(attention.attend(q, k, v).reshape(batch, 1, width))
        normed = nn.LayerNorm(epsilon=self.shape.epsilon, name="norm")(out)
        out = out + Mlp(self.shape.mlp_width, self.shape.mlp, name="mlp")(normed)
        return out[:, 0], jnp.mean(jax.nn.softmax(logits), axis=1)


class Trunk(nn.Module):
    """All layers and the final norm; what `Block` hands out comes stacked."""

    shape: Architecture

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], scoring: Scoring | None, hidden: bool
    ) -> tuple[Array, Part | None, Array | None]:
        shape, turn = self.shape, None
        if shape.rope:
            turn = rotation(shape.grid, shape.width // shape.heads, shape.rope, shape.prefix)
        layers = transformer.over_layers(Block, shape.depth, "none")
        x, (parts, states) = layers(shape, scoring, hidden, name="blocks")(x, turn)
        return nn.LayerNorm(epsilon=shape.epsilon, name="norm")(x), parts, states


class ReleasedVit(nn.Module):
    """Patches of an X-ray in [-1, 1] to what the image is, and to its patches, after the final norm."""

    shape: Architecture

    def setup(self) -> None:
        shape, init = self.shape, transformer.init(self.shape.width)
        self.patch_2d = linear.Dense(shape.width, kernel_init=init)
        if shape.has_cls:
            self.cls = self.param("cls", init, (shape.width,))
        if shape.registers:
            self.register_tokens = self.param("registers", init, (shape.registers, shape.width))
        if not shape.rope:
            self.position_2d = self.param("position_2d", init, (*shape.grid, shape.width))
        self.trunk = Trunk(shape)
        if shape.pool == "attention":
            self.pool = AttentionPool(shape)

    @property
    def width(self) -> int:
        """Of the tokens."""
        return self.shape.width

    @property
    def image_grid(self) -> tuple[int, int]:
        """Tokens along y and x."""
        return self.shape.grid

    @property
    def volume_grid(self) -> tuple[int, int, int]:
        """None of CTs: they are not read."""
        return 0, 0, 0

    def embed_image(self, pixels: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        """Patches in [-1, 1] as tokens, with positions where these are a table."""
        tokens = self.patch_2d(pixels)
        return tokens if self.shape.rope else tokens + self.position_2d.reshape(1, -1, self.width)

    def encode(self, tokens: Float[Array, "b n d"], scores: bool = False, hidden: bool = False) -> vision.Encoded:
        """As the house's own tower; `cls` is what `Architecture.pool` names, the scores are its attention."""
        shape, parts = self.shape, [tokens]
        if shape.registers:
            parts.insert(0, self._repeat(self.register_tokens, tokens))
        if shape.has_cls:
            parts.insert(0, self._repeat(self.cls[None], tokens))
        scoring = Scoring(prefix=shape.prefix) if scores and shape.pool == "cls" else None
        x, rows, states = self.trunk(jnp.concatenate(parts, axis=1), scoring, hidden)
        patches = x[:, shape.prefix :]
        states = None if states is None else states[:, :, shape.prefix :]
        if shape.pool == "attention":
            pooled, attended = self.pool(x)
            return vision.Encoded(pooled, patches, attended[:, shape.prefix :], states)
        if shape.pool == "mean":
            even = jnp.full(patches.shape[:2], 1 / patches.shape[1])
            return vision.Encoded(jnp.mean(patches, axis=1), patches, even, states)
        return vision.Encoded(x[:, 0], patches, scoring.combine(rows, "xla") if scoring else None, states)

    def _repeat(self, vectors: Float[Array, "r d"], tokens: Array) -> Float[Array, "b r d"]:
        return jnp.broadcast_to(vectors[None], (len(tokens), *vectors.shape))


def rotation(grid: tuple[int, int], width: int, base: float, prefix: int) -> Rotation:
    """Cosines and sines by which a head of `width` turns each token (DINOv3, arXiv 2508.10104).

    A patch's centre is in [-1, 1] along both axes, each of which has a quarter of the width in periods of base^0 to
    base^1; both halves of a head turn alike. The `prefix` tokens before the patches do not turn.
    """
    centres = [2 * (np.arange(n) + 0.5) / n - 1 for n in grid]
    places = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    frequencies = base ** -np.arange(0, 1, 4 / width)
    angles = np.tile((2 * np.pi * places[:, :, None] * frequencies).reshape(len(places), -1), 2)
    angles = np.pad(angles, ((prefix, 0), (0, 0)))
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotate(x: Float[Array, "b n h k"], by: tuple[Float[Array, "n k"], Float[Array, "n k"]]) -> Float[Array, "b n h k"]:
    """Every head's vectors turned: pairs are an entry of the first half and the same one of the second."""
    cosines, sines = (part[None, :, None] for part in by)
    first, second = jnp.split(x, 2, axis=-1)
    return x * cosines + jnp.concatenate([-second, first], axis=-1) * sines
