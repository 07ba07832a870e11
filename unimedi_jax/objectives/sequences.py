"""The token sequences of UniMedI: an X-ray, or the slices and the volume of a CT; parts of them, and views."""

import itertools
import math

from jax import numpy as jnp

from unimedi_jax import patches, selection
from unimedi_jax.models import vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import common, crops
from unimedi_jax.typing import Array, Bool, Float, Int


def embed(
    network: UniMedI,
    modality: str,
    tokens: Array,
    layers: Int[Array, "b s"] | None,
    hidden: vision.Hidden = None,
    lateral: vision.Lateral = None,
) -> Float[Array, "b n d"]:
    """All tokens of an X-ray, or [slices, volume] of a CT, with their positions."""
    if modality == "xray":
        return network.embed_xray(tokens, hidden, lateral)
    return network.embed_ct(tokens, layers, hidden)


def grids(model: UniMedI, modality: str) -> list[tuple[int, int, int]]:
    """Of the parts of a sequence, as layers, rows and columns: an X-ray, or the slices and the volume of a CT."""
    if modality == "xray":
        return [(1, *common.grid(model, modality))]
    plane = patches.grid((model.slice_size,) * 2, model.image_patch)
    return [(model.slices * model.slices_per_layer, *plane)] * bool(model.slices) + [model.volume_grid]


def on_view(whole: vision.Encoded, model: UniMedI, modality: str, boxes: crops.Boxes) -> vision.Encoded:
    """Patches and scores of whole samples, brought to the tokens of a plane view of each."""
    parts = grids(model, modality)
    ends = list(itertools.accumulate(math.prod(grid) for grid in parts))[:-1]

    def crop(x: Float[Array, "b n *d"] | None) -> Float[Array, "b n *d"] | None:
        if x is None:
            return None
        pieces = zip(jnp.split(x, ends, axis=1), parts, strict=True)
        return jnp.concatenate([crops.crop_grid(piece, grid, boxes) for piece, grid in pieces], axis=1)

    return whole._replace(patches=crop(whole.patches), scores=crop(whole.scores))


def length(model: UniMedI, modality: str) -> int:
    """Tokens of an X-ray, or of a CT's slices and volume."""
    return math.prod(common.grid(model, modality)) + (model.tokens_2d if modality == "ct" else 0)


def pick(tokens: Float[Array, "b n d"], index: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
    """The tokens at `index`; all of them, without a gather, where it is None."""
    return tokens if index is None else selection.gather_tokens(tokens, index)


def complement(keep: Int[Array, "b k"], length: int) -> Bool[Array, "b n"]:
    """True at the tokens of a sequence that are not in `keep`."""
    return jnp.ones((len(keep), length), bool).at[jnp.arange(len(keep))[:, None], keep].set(False)
