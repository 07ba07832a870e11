"""DINO: a student's small and large views of an image against its teacher's large ones.

Caron et al., "Emerging properties in self-supervised vision transformers" (arXiv 2104.14294): eq. 1 to 4, the head of
appendix C, multi-crop, centring and sharpening, the EMA teacher on backbone and head. Reports are not used.

Differences: both modalities are in a batch, a CT as its volume's tokens, with views cut in three dimensions. Each
modality has a centre of its own, because the mean of a mixed batch would let all CTs share one prototype. Views are
never mirrored and not blurred (`crops`). Two small views by default, where the paper has up to ten. The teacher's
temperature stays at 0.04, as by default in the authors' code; the paper warms it up to 0.07. There is no stochastic
depth, and the weight decay is constant. The teacher is evaluated, as in the paper. Views of one size take one pass:
student and teacher on the large ones, student on the small ones.
"""

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.mean import Mean
from unimedi_jax.models import heads, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, PyTree, Scalar, Step


def across_views(
    student: Float[Array, "b c p"],
    teacher: Float[Array, "b g p"],
    centre: Float[Array, " p"],
    student_temperature: float,
    teacher_temperature: Scalar,
) -> Float[Array, " b"]:
    """Eq. 3 for each sample: the teacher's views against all of the student's but the same one, the mean of the pairs.

    The first g of the student's c views are the teacher's. No gradient reaches the teacher.
    """
    pairs = [(view, target) for target in range(teacher.shape[1]) for view in range(student.shape[1]) if view != target]
    each = [
        losses.self_distillation(student[:, view], teacher[:, target], centre, student_temperature, teacher_temperature)
        for view, target in pairs
    ]
    return jnp.mean(jnp.stack(each), axis=0)


class SelfDistillation(settings.SelfDistillation, base.Objective):
    """Self-distillation across views on CLS, which UniMiSS shares."""

    teacher = ("vision", "head_cls")
    uses_reports = False
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """DINO's prototypes for CLS."""
        size = model.head_sizes
        return {"cls": heads.DinoHead(size.prototypes_cls, size.hidden, size.bottleneck, model.vision.dtype)}

    def state(self, model: UniMedI) -> PyTree:
        """The centres, one a modality."""
        return {"centre": {modality: jnp.zeros(model.head_sizes.prototypes_cls) for modality in ("xray", "ct")}}

    def temperature(self, step: Step) -> Float[Array, ""]:
        """The teacher's: linear from start to end, then constant."""
        return losses.teacher_temperature(self.teacher_temperature, self.temperature_warmup_steps, step)

    def information(self, teacher: Float[Array, "b g p"], centre: Float[Array, " p"], step: Step) -> Mean:
        """What a view's target carries about its sample, in nats: near 0 the teacher has collapsed."""
        targets = losses.assignments(teacher, centre, self.temperature(step))
        return Mean.of(losses.information(jnp.mean(targets, axis=(0, 1)), jnp.mean(losses.entropy(targets))))


class Objective(settings.DINO, SelfDistillation):
    """The loss of eq. 3 on both modalities."""

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every sample's views against its large ones."""
        terms, metrics, centres = {}, {}, dict(state["centre"])
        temperatures = self.student_temperature, self.temperature(step)
        for modality in common.modalities(batch):
            centre = state["centre"][modality]
            large, small = self.views(student, modality, batch[modality]["tokens"])
            lateral = common.lateral(batch, modality)
            targets = prototype_logits(teacher, large, lateral=lateral)
            predictions = prototype_logits(student, large, small, lateral=lateral)
            terms[modality] = across_views(predictions, targets, centre, *temperatures)
            metrics[f"{modality}/dino_information"] = self.information(targets, centre, step)
            centres[modality] = losses.update_centre(centre, targets, self.centre_momentum)
        return base.LossTerms({"dino": terms}, metrics, {"centre": centres})

    def views(
        self, student: UniMedI, modality: str, tokens: Array
    ) -> tuple[Float[Array, "b g *space"], Float[Array, "b l *small"]]:
        """The large views of each sample, and the small ones."""
        x = crops.to_image(student, modality, tokens)
        large = crops.random_crops(student.make_rng("draws"), x, self)
        shape = crops.view_shape(student, modality, self.local_size)
        small = crops.random_crops(student.make_rng("draws"), x, self, self.local_crops, shape, self.local_scale)
        return large.images, small.images


def prototype_logits(
    network: UniMedI, *views: Float[Array, "b c *space"], lateral: vision.Lateral = None
) -> Float[Array, "b c p"]:
    """Logits of the prototypes for all views, one pass for each size of them."""
    cls = [crops.encode_views(network, images, lateral) for images in views if images.shape[1]]
    return network.head["cls"](jnp.concatenate(cls, axis=1))
