"""What objectives share: whole images and reports through the towers of a bound network, and rows by modality."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.models import text, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.typing import Array, Batch, Float, Int, Key, TextIds, TextMask


def modalities(batch: Mapping[str, Any]) -> list[str]:
    """Those at hand, X-rays first: the order of all that is joined over a batch."""
    return [name for name in ("xray", "ct") if name in batch]


def keys(key: Key[Array, ""], *names: str) -> dict[str, Key[Array, ""]]:
    """A key of its own for every random draw."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def grid(model: UniMedI, modality: str) -> tuple[int, ...]:
    """Tokens along the axes: y, x of an X-ray, or z, y, x of a volume."""
    return model.vision.image_grid if modality == "xray" else model.vision.volume_grid


def patch(model: UniMedI, modality: str) -> tuple[int, ...]:
    """Pixels or voxels of a patch along the same axes."""
    return model.image_patch if modality == "xray" else model.volume_patch


def lateral(batch: Batch, modality: str) -> vision.Lateral:
    """Which X-rays are lateral; None where the batch does not say, and of CTs."""
    return batch[modality].get("lateral")


def embed(network: UniMedI, modality: str, tokens: Array, lateral: vision.Lateral = None) -> Float[Array, "b n d"]:
    """All tokens of an X-ray, or of a volume without slices, with their positions."""
    return network.embed_xray(tokens, lateral=lateral) if modality == "xray" else network.embed_volume(tokens)


def encode_images(network: UniMedI, batch: Batch, scores: bool = False) -> dict[str, vision.Encoded]:
    """Every modality whole through the shared ViT; with `scores` eq. 1 beside it."""

    def tokens(name: str) -> Float[Array, "b n d"]:
        return embed(network, name, batch[name]["tokens"], lateral(batch, name))

    return {name: network.encode(tokens(name), scores) for name in modalities(batch)}


def reports(batch: Batch, which: str = "text") -> tuple[TextIds, TextMask]:
    """Ids and mask of all reports, modality after modality; `which` of a sample's token sequences."""
    fields = which, f"{which}_mask"
    ids, mask = (jnp.concatenate([batch[name][field] for name in modalities(batch)]) for field in fields)
    return ids, mask


def studies(batch: Batch) -> Int[Array, " b"] | None:
    """For each sample a number that pictures share which belong together; None where the batch does not say."""
    numbers = [batch[name].get("study") for name in modalities(batch)]
    return None if any(number is None for number in numbers) else placement.replicate(jnp.concatenate(numbers))


def encode_reports(network: UniMedI, batch: Batch, which: str = "text") -> text.TextOutput:
    """All reports through the report tower, modality after modality."""
    return network.encode_text_tokens(*reports(batch, which), True)


class Pairs(NamedTuple):
    """Images and reports of a batch, whole, and where they lie in the joint space."""

    images: dict[str, vision.Encoded]
    reports: text.TextOutput
    z_image: Float[Array, "b e"]
    z_text: Float[Array, "b e"]


def encode_pairs(network: UniMedI, batch: Batch, scores: bool = False) -> Pairs:
    """Every image and every report through its tower and its projection: where image-report contrast begins."""
    images, text_output = encode_images(network, batch, scores), encode_reports(network, batch)
    cls = {name: image.cls for name, image in images.items()}
    return Pairs(images, text_output, *network.project(cls, text_output.vector, True))


def by_modality(rows: Float[Array, "b ..."], batch: Batch) -> dict[str, Array]:
    """Rows of a joined batch back to their modalities."""
    names = modalities(batch)
    ends = list(itertools.accumulate(len(batch[name]["tokens"]) for name in names))
    return dict(zip(names, jnp.split(rows, ends[:-1]), strict=True))
