"""Random views of X-rays and volumes, made on the devices from the batch's tokens.

A view is a random box of the sample, resized to a size that the step is compiled for, with another brightness and
contrast and a little noise. It is never mirrored: reports name sides. Blur, solarisation and colour, which the papers
use on photographs, are left out.
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import patches, selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import inputs, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import common
from unimedi_jax.typing import Array, Float, Int, Key, Num

Boxes = tuple[Float[Array, "b c r"], Float[Array, "b c r"]]  # where they begin and what they cover, as in `Crops`


class Crops(NamedTuple):
    """c views of each sample."""

    images: Float[Array, "b c *space"]
    low: Float[Array, "b c r"]  # where they begin, as shares of the sample's axes
    size: Float[Array, "b c r"]  # and what they cover of them


def to_image(model: UniMedI, modality: str, tokens: Num[Array, "b n v"]) -> Float[Array, "b *space"]:
    """The X-rays or volumes that the tokens were cut from, in [-1, 1]."""
    pixels = model.pixels(modality, tokens)
    return patches.unpatchify(pixels, common.grid(model, modality), common.patch(model, modality))


def to_tokens(model: UniMedI, modality: str, images: Float[Array, "b *space"]) -> Num[Array, "b n v"]:
    """The inverse of `to_image`: X-rays or volumes in [-1, 1] as grey values or Hounsfield units."""
    x = inputs.grey(images) if modality == "xray" else inputs.voxels(images, model.window_hu)
    return patches.patchify(x, common.patch(model, modality))


def view_shape(model: UniMedI, modality: str, share: float = 1.0) -> tuple[int, ...]:
    """Pixels or voxels along each axis of a view: `share` of the sample's, in whole patches."""
    grid, patch = common.grid(model, modality), common.patch(model, modality)
    return tuple(max(1, round(share * n)) * p for n, p in zip(grid, patch, strict=True))


def random_boxes(
    key: Key[Array, ""], shape: tuple[int, int], rank: int, scale: tuple[float, float], aspect: float
) -> tuple[Float[Array, "b c r"], Float[Array, "b c r"]]:
    """Boxes inside the unit square or cube: where they begin and what they cover of each axis."""
    # One draw for all: every draw is a program of its own to compile.
    share, stretch, place = jnp.split(jax.random.uniform(key, (*shape, 1 + 2 * rank)), [1, 1 + rank], axis=-1)
    share = scale[0] + (scale[1] - scale[0]) * share
    stretch = math.log(aspect) * (stretch - jnp.mean(stretch, axis=-1, keepdims=True))
    size = jnp.minimum(share ** (1 / rank) * jnp.exp(stretch), 1.0)
    return place * (1 - size), size


def crop_and_resize(
    x: Float[Array, "b *space"], low: Float[Array, "b c r"], size: Float[Array, "b c r"], shape: tuple[int, ...]
) -> Float[Array, "b c *shape"]:
    """The boxes of each `x`, in shares of its axes, resized to `shape`: linear, smoothed where it shrinks."""
    axes = tuple(range(len(shape)))
    space = jnp.asarray(x.shape[1:], jnp.float32)

    def one(x: Array, low: Array, size: Array) -> Array:
        scale = jnp.asarray(shape, jnp.float32) / (size * space)
        return jax.image.scale_and_translate(x, shape, axes, scale, -low * space * scale, "linear", antialias=True)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(x, low, size)


def jitter(key: Key[Array, ""], x: Float[Array, "b c *space"], views: settings.Views) -> Float[Array, "b c *space"]:
    """Another contrast about the view's own mean, another brightness, and noise; clipped to [-1, 1]."""
    key_light, key_noise = jax.random.split(key)
    axes = tuple(range(2, x.ndim))
    mean = jnp.mean(x, axis=axes, keepdims=True)
    contrast, brightness = jax.random.uniform(key_light, (2, *mean.shape), minval=-1.0)
    factor, shift = 1 + views.contrast * contrast, views.brightness * brightness
    noise = views.noise * jax.random.normal(key_noise, x.shape)
    return jnp.clip((x - mean) * factor + mean + shift + noise, -1.0, 1.0)


def random_crops(
    key: Key[Array, ""],
    x: Float[Array, "b *space"],
    views: settings.Views,
    count: int = 2,
    shape: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
) -> Crops:
    """`count` random views of each `x`, by default of its own size, each covering between `scale` of it."""
    shape = shape or x.shape[1:]
    key_boxes, key_light = jax.random.split(key)
    low, size = random_boxes(key_boxes, (len(x), count), len(shape), scale or views.crop_scale, views.crop_aspect)
    return Crops(jitter(key_light, crop_and_resize(x, low, size, shape), views), low, size)


def plane_view(
    key: Key[Array, ""], model: UniMedI, modality: str, tokens: Num[Array, "b n v"], views: settings.Views
) -> tuple[Num[Array, "b n v"], Boxes]:
    """A random view of each sample in the batch's own format and size, and its box in the plane (y, x).

    A volume's depth stays whole: its layers stay the ones that slices are chosen by.
    """
    key_boxes, key_light = jax.random.split(key)
    x = to_image(model, modality, tokens)
    boxes = random_boxes(key_boxes, (len(x), 1), 2, views.crop_scale, views.crop_aspect)
    images = jitter(key_light, crop_and_resize(x, *over_depth(boxes, x.ndim - 1), x.shape[1:]), views)
    return to_tokens(model, modality, images[:, 0]), boxes


def over_depth(boxes: Boxes, rank: int) -> Boxes:
    """Boxes of the last two axes as boxes of `rank` axes, the others whole."""
    low, size = boxes
    whole = (*low.shape[:-1], rank - 2)
    return jnp.concatenate([jnp.zeros(whole), low], axis=-1), jnp.concatenate([jnp.ones(whole), size], axis=-1)


def crop_grid(x: Float[Array, "b n *d"], grid: tuple[int, ...], boxes: Boxes) -> Float[Array, "b n *d"]:
    """What lies on the tokens of a grid, where the tokens of a plane view of one box each lie: linear between them."""
    boxes = over_depth(boxes, len(grid))
    space = x.astype(jnp.float32).reshape(len(x), *grid, -1)
    cropped = jax.vmap(lambda channel: crop_and_resize(channel, *boxes, grid)[:, 0], -1, -1)(space)
    return cropped.reshape(x.shape).astype(x.dtype)


def random_slices(
    key: Key[Array, ""], volumes: Float[Array, "b z y x"], count: int, size: int
) -> tuple[Float[Array, "b s y x"], Int[Array, "b s"]]:
    """`count` random axial slices of each volume in their order, resized to `size` x `size`, and their places in z.

    Raises:
        ValueError: the volumes have fewer.
    """
    batch, depth, *plane = volumes.shape
    if count > depth:
        raise ValueError(f"slices: {count} of a volume that has {depth}")
    z = selection.topk_indices(selection.random_scores(key, jnp.zeros((batch, depth))), count)
    slices = selection.gather_tokens(volumes, z)
    if plane != [size, size]:
        slices = jax.image.resize(slices, (batch, count, size, size), "linear", antialias=True)
    return slices, z


def embed_views(
    network: UniMedI, images: Float[Array, "b c *space"], lateral: vision.Lateral = None
) -> Float[Array, "bc n d"]:
    """Views as tokens with the positions of a grid of their own size; the views of a sample follow one another."""
    modality = "xray" if images.ndim == 4 else "ct"
    patch = common.patch(network, modality)
    lateral = None if lateral is None else jnp.repeat(lateral, images.shape[1])
    # Neighbouring rows, so that views stay on the device that holds their sample.
    images = images.reshape(-1, *images.shape[2:])
    grid = patches.grid(images.shape[1:], patch)
    return network.embed_pixels(modality, patches.patchify(images, patch), grid, lateral=lateral)


def encode_views(
    network: UniMedI, images: Float[Array, "b c *space"], lateral: vision.Lateral = None
) -> Float[Array, "b c d"]:
    """CLS of every view, all of them in one pass."""
    return network.encode(embed_views(network, images, lateral)).cls.reshape(*images.shape[:2], -1)
