"""What objectives share: both modalities through the towers, reports beside them, losses by modality to one number."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax.mean import Mean
from unimedi_jax.models import text, towers, vision
from unimedi_jax.objectives import base
from unimedi_jax.typing import Array, Batch, Float, Key, Metrics, Params, PyTree

Parts = dict[str, dict[str, Array]]  # loss -> modality -> its value for each sample


def modalities(batch: Mapping[str, Any]) -> list[str]:
    """Those at hand, X-rays first: the order of all that is joined over a batch."""
    return [name for name in ("xray", "ct") if name in batch]


def embed(name: str, params: Params, tokens: Array, *, model: towers.UniMedI) -> Float[Array, "b n d"]:
    """All tokens of a film, or of a volume without slices, with their positions."""
    method = "embed_xray" if name == "xray" else "embed_volume"
    return model.apply({"params": params}, tokens, method=method)


def see(params: Params, batch: Batch, *, model: towers.UniMedI, scores: bool = False) -> dict[str, vision.Encoded]:
    """Every modality whole through the shared ViT; with `scores` eq. 1 beside it."""
    return {
        name: model.apply(
            {"params": params}, embed(name, params, batch[name]["tokens"], model=model), scores, method="encode"
        )
        for name in modalities(batch)
    }


def reports(batch: Batch) -> tuple[Array, Array]:
    """Ids and mask of all reports, modality after modality."""
    text, mask = (
        jnp.concatenate([batch[name][field] for name in modalities(batch)]) for field in ("text", "text_mask")
    )
    return text, mask


def read(params: Params, batch: Batch, key: Key[Array, ""], *, model: towers.UniMedI) -> text.Read:
    """All reports through the report tower, modality after modality."""
    return model.apply({"params": params}, *reports(batch), True, method="read_words", rngs={"dropout": key})


def project(
    params: Params,
    stats: PyTree,
    cls: Mapping[str, Float[Array, "_ d"]],
    reports: Float[Array, "b d"],
    *,
    model: towers.UniMedI,
) -> tuple[Float[Array, "b e"], Float[Array, "b e"], PyTree]:
    """Images and reports as unit vectors of the joint space, and the running statistics of the projections.

    Rows are in the order of `modalities`.
    """
    (z_image, z_text), updated = model.apply(
        {"params": params, "batch_stats": stats["batch_stats"]},
        {name: cls[name] for name in modalities(cls)},
        reports,
        True,
        method="project",
        mutable=["batch_stats"],
    )
    return z_image, z_text, updated.get("batch_stats", {})


def through(name: str, params: Params, *x: Any, model: towers.UniMedI) -> Any:
    """What a network's head `name` makes of `x`."""
    return model.apply({"params": params}, name, *x, method="through")


class Paired(NamedTuple):
    """Images and reports of a batch, whole, and where they lie in the joint space."""

    seen: dict[str, vision.Encoded]
    read: text.Read
    z_image: Float[Array, "b e"]
    z_text: Float[Array, "b e"]
    batch_stats: PyTree


def pair(
    params: Params, stats: PyTree, batch: Batch, key: Key[Array, ""], *, model: towers.UniMedI, scores: bool = False
) -> Paired:
    """Every image and every report through its tower and its projection: where image-report contrast begins."""
    seen = see(params, batch, model=model, scores=scores)
    found = read(params, batch, key, model=model)
    cls = {name: view.cls for name, view in seen.items()}
    return Paired(seen, found, *project(params, stats, cls, found.vector, model=model))


def by_modality(each: Float[Array, "b ..."], batch: Batch) -> dict[str, Array]:
    """Rows of a joined batch back to their modalities."""
    names = modalities(batch)
    sizes = [len(batch[name]["tokens"]) for name in names]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return dict(zip(names, jnp.split(each, ends), strict=True))


def total(parts: Parts, weights: Mapping[str, float]) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses, each a mean over all samples, and the means by loss and modality."""
    metrics, loss = {}, jnp.zeros(())
    for name, each in parts.items():
        means = {modality: Mean.of(values) for modality, values in each.items()}
        metrics |= {f"{modality}/{name}": mean for modality, mean in means.items()}
        metrics[f"loss/{name}"] = whole = sum(means.values(), start=Mean(0.0, 0.0))
        loss += weights[name] * whole.value
    return loss, metrics


def with_total(parts: Parts, weights: Mapping[str, float], stats: PyTree) -> base.Loss:
    """What an objective's `loss` returns, from the losses of the samples and the new statistics."""
    loss, metrics = total(parts, weights)
    return loss, (metrics | {"loss": Mean(loss, jnp.ones(()))}, stats)


def keys(key: Key[Array, ""], *names: str) -> dict[str, Key[Array, ""]]:
    """A key of its own for every random draw."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
