"""The shared ViT as downstream networks use it: tokens of records in, CLS or a feature map out."""

import jax
from jax import numpy as jnp

from unimedi_jax import patches
from unimedi_jax.models import inputs, towers, vision
from unimedi_jax.typing import Array, Float, Num, Params, PyTree


def cls(
    model: towers.UniMedI,
    encoder: Params,
    tokens: Num[Array, "b n v"],
    modality: str,
    *,
    ct_slices: bool,
    stats: PyTree | None = None,
    lateral: vision.Lateral = None,
) -> Float[Array, "b d"]:
    """CLS after the final norm; `encoder` holds the parameters of the vision tower, under "vision".

    A CT is its volume alone, or with `ct_slices` volume and chosen slices; no gradient goes through the choice. `stats`
    holds the running mean of the slices' scores, where the model has one; `lateral` says which X-rays are, to a model
    that distinguishes them.
    """

    def run(bound: towers.UniMedI) -> Array:
        if modality == "xray":
            return bound.encode(bound.embed_xray(tokens, lateral=lateral)).cls
        volume = bound.encode(bound.embed_volume(tokens), scores=ct_slices)
        if not ct_slices:
            return volume.cls
        _, layers = bound.choose_layers(jax.lax.stop_gradient(volume.scores))
        return bound.encode(bound.embed_ct(tokens, layers)).cls

    return model.apply({"params": encoder, "batch_stats": stats or {}}, method=run).astype(jnp.float32)


def states(
    model: towers.UniMedI, encoder: Params, tokens: Num[Array, "b n v"], modality: str, *, hidden: bool = False
) -> vision.Encoded:
    """Tokens after the final norm, with `hidden` the outputs of all blocks too; a CT is its volume alone."""

    def run(bound: towers.UniMedI) -> vision.Encoded:
        if modality == "xray":
            return bound.vision.encode(bound.embed_xray(tokens), hidden=hidden)
        return bound.vision.encode(bound.embed_volume(tokens), hidden=hidden)

    return model.apply({"params": encoder}, method=run)


def states_of_crops(model: towers.UniMedI, encoder: Params, crops: Float[Array, "b z y x"]) -> vision.Encoded:
    """Tokens and the outputs of all blocks of crops in [-1, 1] of any size that the patch divides.

    The table of positions is interpolated to the crop's grid.
    """

    def run(bound: towers.UniMedI) -> vision.Encoded:
        patch = bound.volume_patch
        tokens = bound.embed_pixels("ct", patches.patchify(crops, patch), patches.grid(crops.shape[1:], patch))
        return bound.vision.encode(tokens, hidden=True)

    return model.apply({"params": encoder}, method=run)


def voxels(model: towers.UniMedI, tokens: Num[Array, "b n v"]) -> Float[Array, "b z y x"]:
    """The volume that CT tokens were cut from, in the network's scale of [-1, 1]."""
    return inputs.hounsfield(patches.unpatchify(tokens, model.volume_grid, model.volume_patch), model.window_hu)
