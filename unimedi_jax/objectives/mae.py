"""Masked autoencoders: the encoder sees a quarter of an image, a light decoder restores the rest.

He et al., arXiv 2111.06377, section 3: tokens are dropped at random (75 %) after they got their positions; the ViT
encodes CLS and those that are left; a decoder takes them and a mask token at every other place, all with positions of
its own, and says the pixels of each patch. Each patch's target is normalised by its own mean and standard deviation
(`norm_pix`), the loss is the squared error over the dropped patches alone. No report is read.

Differences: films and volumes share encoder, decoder and mask token; the positions in the decoder and the linear map to
pixels are each modality's own. Of a CT, whole patches of the volume are dropped. The encoder's positions are the
tower's learnt tables, fixed sines only in the decoder (and over periods of `vision.sincos`). The kept tokens' number is
rounded up. The crop is the pipeline's, never mirrored.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import selection
from unimedi_jax.models import linear, towers, transformer, vision
from unimedi_jax.objectives import base, common, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


class Seen(NamedTuple):
    """What the encoder makes of the visible tokens, and where they belong."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b k d"]
    place: Int[Array, "b n"]  # of each token of the image in the shuffled sequence; the first k of that are visible

    @property
    def hidden(self) -> Bool[Array, "b n"]:
        """The tokens that were dropped."""
        return self.place >= self.patches.shape[1]


def unshuffle(x: Float[Array, "b k d"], token: Float[Array, " d"], place: Int[Array, "b n"]) -> Float[Array, "b n d"]:
    """The visible tokens back where they were, and the mask token everywhere else."""
    batch, k, width = x.shape
    masks = jnp.broadcast_to(token.astype(x.dtype), (batch, place.shape[1] - k, width))
    return selection.gather(jnp.concatenate([x, masks], axis=1), place)


def normalise(pixels: Float[Array, "b n v"], epsilon: float = 1e-6) -> Float[Array, "b n v"]:
    """Every patch with mean 0 and variance 1 over its own pixels; a flat one is 0."""
    centred = pixels - jnp.mean(pixels, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)


def error(
    predicted: Float[Array, "b n v"], target: Float[Array, "b n v"], hidden: Bool[Array, "b n"]
) -> Float[Array, " b"]:
    """The mean squared error over the pixels of the hidden patches, for every sample."""
    each = jnp.mean(jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32)), axis=-1)
    return masked.over(each, hidden)


class Decoder(nn.Module):
    """Visible tokens, CLS first, to the pixels of all patches of a film or a volume."""

    width: int
    depth: int
    heads: int
    grids: Mapping[str, tuple[int, ...]]  # modality -> tokens along its axes
    values: Mapping[str, int]  # modality -> pixels of a patch
    dtype: Any = jnp.bfloat16
    attention: str = "xla"
    remat: str = "none"
    unrolled: bool = False

    @nn.compact
    def __call__(self, name: str, x: Float[Array, "b m d"], place: Int[Array, "b n"]) -> Float[Array, "b n v"]:
        init = transformer.init(self.width)
        dense = dict(dtype=self.dtype, kernel_init=init)
        x = linear.Dense(self.width, name="embed", **dense)(x)
        tokens = unshuffle(x[:, 1:], self.param("mask_token", init, (self.width,)), place)
        positions = vision.sincos(self.grids[name], self.width).reshape(1, -1, self.width)
        x = jnp.concatenate([x[:, :1], tokens + positions.astype(self.dtype)], axis=1)
        trunk = vision.Trunk(
            self.width,
            self.depth,
            self.heads,
            4 * self.width,
            self.dtype,
            attention=self.attention,
            remat=self.remat,
            unrolled=self.unrolled,
            name="trunk",
        )
        x, _, _ = trunk(x, False)
        return linear.Dense(self.values[name], name=f"pixels_{name}", **dense)(x[:, 1:]).astype(jnp.float32)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call a modality, of one visible token, so that `init` makes the parameters."""
        for name, cells in self.grids.items():
            n = math.prod(cells)
            self(name, patches[:, :2], jnp.broadcast_to(jnp.arange(n), (len(patches), n)))


def see(
    name: str, params: Params, tokens: Array, key: Key[Array, ""], mask_ratio: float, *, model: towers.UniMedI
) -> Seen:
    """The encoder on a random share of the tokens, the rest dropped before it."""
    whole = common.embed(name, params, tokens, model=model)
    place = masked.places(key, *whole.shape[:2])
    visible = jnp.argsort(place, axis=-1)[:, : selection.kept(place.shape[1], mask_ratio)]
    seen = model.apply({"params": params}, selection.gather(whole, visible), method="encode")
    return Seen(seen.cls, seen.patches, place)


def restore(
    name: str, params: Params, tokens: Array, seen: Seen, norm_pix: bool, *, model: towers.UniMedI
) -> Float[Array, " b"]:
    """How far the decoder is from the dropped patches, for every sample."""
    x = jnp.concatenate([seen.cls[:, None], seen.patches], axis=1)
    predicted = common.through("decoder", params, name, x, seen.place, model=model)
    pixels = model.pixels(name, tokens)
    return error(predicted, normalise(pixels) if norm_pix else pixels, seen.hidden)


@dataclasses.dataclass(frozen=True)
class Settings(base.Objective):
    """What is dropped, what is restored, and the decoder that does it."""

    mask_ratio: float = 0.75  # share of the tokens that is dropped
    norm_pix: bool = True  # each patch's pixels less their mean, over their standard deviation
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is above 0 and below 1, not {self.mask_ratio}")
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width={self.decoder_width} is not divisible by decoder_heads={self.decoder_heads}"
            )

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """The decoder of both modalities."""
        tower = model.vision
        return {
            "decoder": Decoder(
                self.decoder_width,
                self.decoder_depth,
                self.decoder_heads,
                {name: masked.grid(name, model) for name in ("xray", "ct")},
                {name: masked.values(name, model) for name in ("xray", "ct")},
                tower.dtype,
                tower.attention,
                tower.remat,
                tower.unrolled,
            )
        }


@dataclasses.dataclass(frozen=True)
class Objective(Settings):
    """Dropped patches of films, of volumes, or of both."""

    reads: ClassVar[bool] = False
    aligned: ClassVar[bool] = False

    def loss(
        self,
        params: Params,
        teacher: Params,
        stats: PyTree,
        batch: Batch,
        key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        model: towers.UniMedI,
    ) -> base.Loss:
        """What was dropped of every image, against what is restored of it."""
        keys = common.keys(key, "xray", "ct")
        each = {}
        for name in common.modalities(batch):
            tokens = batch[name]["tokens"]
            seen = see(name, params, tokens, keys[name], self.mask_ratio, model=model)
            each[name] = restore(name, params, tokens, seen, self.norm_pix, model=model)
        return common.with_total({"mim": each}, {"mim": 1.0}, stats)
