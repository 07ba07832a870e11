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
    x = patches.patchify(_resize(x, size), patch)
    return x.reshape(batch, count, *x.shape[1:])


def frontal_patches(volume: Num[Array, "b z y x"], size: int, patch: tuple[int, int]) -> Float[Array, "b n v"]:
    """A CT in Hounsfield units as one would see it from the front: mean attenuation along y, as patches in [-1, 1].

    Attenuation is relative to water, 1 + HU / 1000, and a film's darkening follows its sum along the beam: a digitally
    reconstructed radiograph of parallel rays. Dense is bright and the head up, as in X-rays; each is stretched to its
    own range, as those are.
    """
    attenuation = jnp.maximum(1 + volume.astype(jnp.float32) / 1000, 0)
    view = jnp.mean(attenuation, axis=2)[:, ::-1]  # z grows towards the head, rows of a picture away from it
    low, high = (f(view, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    view = (view - low) * (2 / jnp.maximum(high - low, 1e-6)) - 1
    return patches.patchify(_resize(view, size), patch)


def mean_in_plane(
    tokens: Num[Array, "b n v"], patch: tuple[int, int, int], fine: tuple[int, int, int]
) -> Num[Array, "b n w"]:
    """Tokens whose planes are `fine` to those of `patch`: block means, rounded as in the input pipeline."""
    times = [whole // own for whole, own in zip(fine, patch, strict=True)]
    batch, n, _ = tokens.shape
    cells = tokens.astype(jnp.int32).reshape(batch, n, patch[0], patch[1], times[1], patch[2], times[2])
    # Strided planes are added up: a sum over axes of two numbers is slow on CPUs.
    total = sum(cells[:, :, :, :, i, :, j] for i in range(times[1]) for j in range(times[2]))
    mean = jnp.round(total.astype(jnp.float32) / jnp.float32(times[1] * times[2]))
    return mean.astype(tokens.dtype).reshape(batch, n, -1)


def _resize(x: Float[Array, "b y x"], size: int) -> Float[Array, "b size size"]:
    if x.shape[1:] == (size, size):
        return x
    return jax.image.resize(x, (len(x), size, size), "linear", antialias=True)
