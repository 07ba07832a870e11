"""From stored integers to what the tokenizers take: on the device, so that the host ships bytes, not floats."""

import jax
from jax import numpy as jnp

from unimedi_jax import patches
from unimedi_jax.typing import Array, Float, Int16, Num, UInt8


def image(tokens: UInt8[Array, "*b n v"]) -> Float[Array, "*b n v"]:
    """Grey values 0..255 to [-1, 1] (mean and standard deviation of 0.5, as in MGCA)."""
    return tokens.astype(jnp.float32) / 127.5 - 1.0


def hounsfield(x: Num[Array, "..."], window_hu: tuple[float, float]) -> Float[Array, "..."]:
    """Hounsfield units to [-1, 1] over `window_hu`; outside is clipped."""
    low, high = window_hu
    return (jnp.clip(x.astype(jnp.float32), low, high) - low) * (2.0 / (high - low)) - 1.0


def grey(pixels: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """The inverse of `image`, rounded."""
    return jnp.round((pixels + 1.0) * 127.5).astype(jnp.uint8)


def voxels(pixels: Float[Array, "..."], window_hu: tuple[float, float]) -> Int16[Array, "..."]:
    """The inverse of `hounsfield` within the window, rounded to whole Hounsfield units."""
    low, high = window_hu
    return jnp.round((pixels + 1.0) * ((high - low) / 2.0) + low).astype(jnp.int16)


def slice_patches(
    slices: Num[Array, "b s y x"], size: int, patch: tuple[int, int], window_hu: tuple[float, float]
) -> Float[Array, "b s n v"]:
    """CT slices in Hounsfield units, windowed, resized to `size` x `size` and cut into 2D patches.

    The resize is bilinear, anti-aliased where it shrinks; with the X-rays' size the slices share their positions.
    """
    batch, count, *plane = slices.shape
    x = hounsfield(slices, window_hu).reshape(batch * count, *plane)
    if plane != [size, size]:
        x = jax.image.resize(x, (batch * count, size, size), "linear", antialias=True)
    x = patches.patchify(x, patch)
    return x.reshape(batch, count, *x.shape[1:])
