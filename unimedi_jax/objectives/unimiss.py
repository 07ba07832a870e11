"""UniMiSS: DINO on films and on volumes, and between a volume and its slices, without reports.

Xie et al., "UniMiSS: universal medical self-supervised learning via breaking dimensionality barrier" (arXiv 2112.09356,
ECCV 2022). Of films: DINO's loss between two views. Of volumes: the same, and three terms with the slices of the two
views, whose logits are averaged over the slices: slices against slices, slices against volume, volume against slices.
The four weigh the same, as in the public code.

Otherwise than there: films and volumes are in one batch, each loss a mean over its own modality, where the paper
alternates two epochs of films and two of volumes (and keeps the 3D parts still during the films'). The two centres take
the place of its single one, which follows whatever modality is at hand; that of volumes takes one step on volumes and
slices together, for four. A few random slices of a view stand for all of them (the paper: 16), resized to
`config.model.slice_size`. The shared ViT stands for the pyramid MiT, its two tokenizers for the switchable embedding.
No decoder is trained. Views: see `crops`.
"""

import dataclasses

from jax import numpy as jnp

from unimedi_jax.models import towers
from unimedi_jax.objectives import base, common, crops, dino
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(dino.Settings):
    """Films, volumes, and volumes with their slices."""

    crop_scale: tuple[float, float] = (0.14, 1.0)
    slices: int = 4  # of each view of a volume
    weight_slices: float = 1.0  # of each of the three terms with slices

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices < 1:
            raise ValueError(f"slices is at least 1, not {self.slices}")
        if self.weight_slices < 0:
            raise ValueError(f"weight_slices is at least 0, not {self.weight_slices}")

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
        """Two views of every sample, and slices of those of the volumes."""
        keys = common.keys(key, "xray", "ct", "slices")
        parts, used, centres = {}, {}, dict(stats["centre"])
        for name in common.modalities(batch):
            centre = stats["centre"][name]
            x = crops.whole(name, batch[name]["tokens"], model=model)
            views = crops.crop(keys[name], x, 2, x.shape[1:], self.crop_scale, self).images
            taught, seen = (dino.logits(network, views, model=model) for network in (teacher, params))
            pairs = {"image": (seen, taught)}
            if name == "ct":
                cut = slices(keys["slices"], views, self.slices, model.slice_size)
                of_slices = [mean_logits(network, cut, self.slices, model=model) for network in (teacher, params)]
                pairs = with_slices(seen, taught, *reversed(of_slices))
                taught = jnp.concatenate([taught, of_slices[0]], axis=1)
            parts |= {kind: {name: self.distil(*pair, centre, step)} for kind, pair in pairs.items()}
            used[f"{name}/dino_prototypes"] = self.prototypes_used(taught, centre, step)
            centres[name] = self.follow(centre, taught)
        weights = {kind: 1.0 if kind in ("image", "volume") else self.weight_slices for kind in parts}
        stats = {"batch_stats": stats["batch_stats"], "centre": centres}
        loss, (metrics, stats) = common.with_total(parts, weights, stats)
        return loss, (metrics | used, stats)


def with_slices(
    seen: Float[Array, "b 2 p"],
    taught: Float[Array, "b 2 p"],
    seen_slices: Float[Array, "b 2 p"],
    taught_slices: Float[Array, "b 2 p"],
) -> dict[str, tuple[Array, Array]]:
    """Who learns from whom: (student, teacher) of each of the four terms."""
    return {
        "volume": (seen, taught),
        "slices": (seen_slices, taught_slices),
        "slices_to_volume": (seen_slices, taught),
        "volume_to_slices": (seen, taught_slices),
    }


def slices(
    key: Key[Array, ""], views: Float[Array, "b c z y x"], count: int, size: int
) -> Float[Array, "b cs size size"]:
    """Random slices of each view, view after view."""
    batch, crowd, *space = views.shape
    taken = crops.slices(key, views.reshape(-1, *space), count, size)[0]
    return taken.reshape(batch, crowd * count, size, size)


def mean_logits(
    params: Params, views: Float[Array, "b cs y x"], count: int, *, model: towers.UniMedI
) -> Float[Array, "b c p"]:
    """Logits of the prototypes, the mean over the `count` slices of each view."""
    each = dino.logits(params, views, model=model)
    return jnp.mean(each.reshape(len(each), -1, count, each.shape[-1]), axis=2)
