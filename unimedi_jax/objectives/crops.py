"""Random views of films and volumes, made on the devices from the batch's tokens.

A view is a random box of the sample, resized to a size that the step is compiled for, with another brightness and
contrast and a little noise. It is never mirrored: reports name sides. Blur, solarisation and colour, which the papers
use on photographs, are left out.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import patches, selection
from unimedi_jax.models import towers
from unimedi_jax.objectives import common
from unimedi_jax.typing import Array, Float, Int, Key, Num, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """How views are drawn."""

    crop_scale: tuple[float, float] = (0.4, 1.0)  # share of the area or of the volume that a crop covers
    crop_aspect: float = 4 / 3  # the most by which one side is stretched against another
    brightness: float = 0.2  # the most that is added to grey values in [-1, 1]
    contrast: float = 0.4  # the most by which the factor of the contrast leaves 1
    noise: float = 0.02  # standard deviation

    def __post_init__(self) -> None:
        shares("crop_scale", self.crop_scale)
        if self.crop_aspect < 1:
            raise ValueError(f"crop_aspect is at least 1, not {self.crop_aspect}")
        for name in ("brightness", "contrast", "noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 0 and below 1, not {getattr(self, name)}")


class Crops(NamedTuple):
    """c views of each sample."""

    images: Float[Array, "b c *space"]
    low: Float[Array, "b c r"]  # where they begin, as shares of the sample's axes
    size: Float[Array, "b c r"]  # and what they cover of them


def shares(name: str, scale: tuple[float, float]) -> None:
    """Refuses what is no range of shares.

    Raises:
        ValueError: not 0 < least <= most <= 1.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{name} is two shares, least and most, above 0 and at most 1, not {scale}")


def whole(name: str, tokens: Num[Array, "b n v"], *, model: towers.UniMedI) -> Float[Array, "b *space"]:
    """Films or volumes put together again, in [-1, 1]."""
    cells, patch = layout(name, model=model)
    return patches.unpatchify(model.pixels(name, tokens), cells, patch)


def layout(name: str, *, model: towers.UniMedI) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The grid of a modality's tokens, and the size of their patches."""
    if name == "xray":
        return model.vision.image_grid, model.image_patch
    return model.volume_grid, model.volume_patch


def size_of(name: str, share: float = 1.0, *, model: towers.UniMedI) -> tuple[int, ...]:
    """Pixels or voxels along each axis of a view: `share` of the sample's, in whole patches."""
    return tuple(max(1, round(share * n)) * p for n, p in zip(*layout(name, model=model), strict=True))


def draw(
    key: Key[Array, ""], shape: tuple[int, int], rank: int, scale: tuple[float, float], aspect: float
) -> tuple[Float[Array, "b c r"], Float[Array, "b c r"]]:
    """Boxes inside the unit square or cube: where they begin and what they cover of each axis."""
    # One draw for all: every draw is a program of its own to compile.
    share, stretch, place = jnp.split(jax.random.uniform(key, (*shape, 1 + 2 * rank)), [1, 1 + rank], axis=-1)
    share = scale[0] + (scale[1] - scale[0]) * share
    stretch = math.log(aspect) * (stretch - jnp.mean(stretch, axis=-1, keepdims=True))
    size = jnp.minimum(share ** (1 / rank) * jnp.exp(stretch), 1.0)
    return place * (1 - size), size


def cut(
    x: Float[Array, "b *space"], low: Float[Array, "b c r"], size: Float[Array, "b c r"], shape: tuple[int, ...]
) -> Float[Array, "b c *shape"]:
    """The boxes of each `x`, in shares of its axes, resized to `shape`: linear, smoothed where it shrinks."""
    axes = tuple(range(len(shape)))
    space = jnp.asarray(x.shape[1:], jnp.float32)

    def one(x: Array, low: Array, size: Array) -> Array:
        scale = jnp.asarray(shape, jnp.float32) / (size * space)
        return jax.image.scale_and_translate(x, shape, axes, scale, -low * space * scale, "linear", antialias=True)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(x, low, size)


def relight(key: Key[Array, ""], x: Float[Array, "b c *space"], settings: Settings) -> Float[Array, "b c *space"]:
    """Another contrast about the view's own mean, another brightness, and noise; clipped to [-1, 1]."""
    keys = common.keys(key, "light", "noise")
    axes = tuple(range(2, x.ndim))
    mean = jnp.mean(x, axis=axes, keepdims=True)
    contrast, brightness = jax.random.uniform(keys["light"], (2, *mean.shape), minval=-1.0)
    factor, shift = 1 + settings.contrast * contrast, settings.brightness * brightness
    noise = settings.noise * jax.random.normal(keys["noise"], x.shape)
    return jnp.clip((x - mean) * factor + mean + shift + noise, -1.0, 1.0)


def crop(
    key: Key[Array, ""],
    x: Float[Array, "b *space"],
    count: int,
    shape: tuple[int, ...],
    scale: tuple[float, float],
    settings: Settings,
) -> Crops:
    """`count` random views of each `x`, of size `shape`, which cover between `scale` of it."""
    keys = common.keys(key, "boxes", "light")
    low, size = draw(keys["boxes"], (len(x), count), len(shape), scale, settings.crop_aspect)
    return Crops(relight(keys["light"], cut(x, low, size, shape), settings), low, size)


def slices(
    key: Key[Array, ""], volumes: Float[Array, "b z y x"], count: int, size: int
) -> tuple[Float[Array, "b s y x"], Int[Array, "b s"]]:
    """`count` random axial slices of each volume in their order, resized to `size` x `size`, and where they lie in z.

    Raises:
        ValueError: the volumes have fewer.
    """
    batch, depth, *plane = volumes.shape
    if count > depth:
        raise ValueError(f"slices: {count} of a volume that has {depth}")
    where = selection.top(selection.random_scores(key, jnp.zeros((batch, depth))), count)
    taken = selection.gather(volumes, where)
    if plane != [size, size]:
        taken = jax.image.resize(taken, (batch, count, size, size), "linear", antialias=True)
    return taken, where


def embed(params: Params, images: Float[Array, "b c *space"], *, model: towers.UniMedI) -> Float[Array, "bc n d"]:
    """Views as tokens with the positions of a grid of their own size; the views of a sample follow one another."""
    name = "xray" if images.ndim == 4 else "ct"
    patch = layout(name, model=model)[1]
    # Neighbouring rows, so that views stay on the device that holds their sample.
    images = images.reshape(-1, *images.shape[2:])
    grid = patches.grid(images.shape[1:], patch)
    return model.apply({"params": params}, name, patches.patchify(images, patch), grid, method="embed_pixels")


def see(params: Params, images: Float[Array, "b c *space"], *, model: towers.UniMedI) -> Float[Array, "b c d"]:
    """CLS of every view, all of them in one pass."""
    tokens = embed(params, images, model=model)
    cls = model.apply({"params": params}, tokens, method="encode").cls
    return cls.reshape(*images.shape[:2], -1)
