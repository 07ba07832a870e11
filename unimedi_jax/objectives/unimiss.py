"""UniMiSS: DINO on X-rays and on volumes, and between a volume and its slices, without reports.

Xie et al., "UniMiSS: universal medical self-supervised learning via breaking dimensionality barrier" (arXiv 2112.09356,
ECCV 2022). Of X-rays: DINO's loss between two views. Of volumes: the same, and three terms with the slices of the two
views, whose logits are averaged over the slices: slices against slices, slices against volume, volume against slices.
The four weigh the same, as in the public code.

Differences: X-rays and volumes are in one batch, each loss a mean over its own modality, where the paper alternates two
epochs of X-rays and two of volumes (and freezes the 3D parts during the former). Two centres replace its single one,
which follows the modality of the current batch; that of volumes takes one step on volumes and slices together, where
the paper's takes four. A few random slices of a view stand for all of them (the paper: 16), resized to
`config.model.slice_size`. The shared ViT replaces the pyramid MiT, its two tokenizers the switchable embedding. No
decoder is trained. Views: see `crops`.
"""

from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, crops, dino
from unimedi_jax.typing import Array, Batch, Float, Key, PyTree, Step


class Objective(settings.UniMiSS, dino.SelfDistillation):
    """X-rays, volumes, and volumes with their slices."""

    def weight(self, loss: str, step: Step) -> float:
        """1 for what is compared with its own kind, `weight_slices` for each of the three terms with slices."""
        return 1.0 if loss in ("image", "volume") else self.weight_slices

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Two views of every sample, and slices of those of the volumes."""
        terms, metrics, centres = {}, {}, dict(state["centre"])
        temperatures = self.student_temperature, self.temperature(step)
        for modality in common.modalities(batch):
            centre = state["centre"][modality]
            x = crops.to_image(student, modality, batch[modality]["tokens"])
            views = crops.random_crops(student.make_rng("draws"), x, self).images
            lateral = common.lateral(batch, modality)
            targets, predictions = (dino.prototype_logits(one, views, lateral=lateral) for one in (teacher, student))
            pairs = {"image": (predictions, targets)}
            if modality == "ct":
                slices = slices_of_views(student.make_rng("draws"), views, self.slices, student.slice_size)
                slice_targets = mean_logits(teacher, slices, self.slices)
                pairs = volume_pairs(predictions, targets, mean_logits(student, slices, self.slices), slice_targets)
                targets = jnp.concatenate([targets, slice_targets], axis=1)
            for loss, pair in pairs.items():
                terms[loss] = {modality: dino.across_views(*pair, centre, *temperatures)}
            metrics[f"{modality}/dino_information"] = self.information(targets, centre, step)
            centres[modality] = losses.update_centre(centre, targets, self.centre_momentum)
        return base.LossTerms(terms, metrics, {"centre": centres})


def volume_pairs(
    predictions: Float[Array, "b 2 p"],
    targets: Float[Array, "b 2 p"],
    slice_predictions: Float[Array, "b 2 p"],
    slice_targets: Float[Array, "b 2 p"],
) -> dict[str, tuple[Array, Array]]:
    """The student's logits and the teacher's for each of the four terms of volumes."""
    return {
        "volume": (predictions, targets),
        "slices": (slice_predictions, slice_targets),
        "slices_to_volume": (slice_predictions, targets),
        "volume_to_slices": (predictions, slice_targets),
    }


def slices_of_views(
    key: Key[Array, ""], views: Float[Array, "b c z y x"], count: int, size: int
) -> Float[Array, "b cs size size"]:
    """Random slices of each view, view after view."""
    batch, num_views, *space = views.shape
    slices = crops.random_slices(key, views.reshape(-1, *space), count, size)[0]
    return slices.reshape(batch, num_views * count, size, size)


def mean_logits(network: UniMedI, slices: Float[Array, "b cs y x"], count: int) -> Float[Array, "b c p"]:
    """Logits of the prototypes, the mean over the `count` slices of each view."""
    logits = dino.prototype_logits(network, slices)
    return jnp.mean(logits.reshape(len(logits), -1, count, logits.shape[-1]), axis=2)
