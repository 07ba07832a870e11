"""UniMedI's self-distillation, position for position: targets of a batch, the loss, and what a target carries."""

from collections.abc import Callable
from typing import NamedTuple

from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.mean import Mean
from unimedi_jax.typing import Array, Float, Metrics, Scalar

CENTRES = {"icl": "centre_cls", "pcl": "centre_patch"}  # of each distillation, in the objective's state


class TeacherStats(NamedTuple):
    """The teacher over the samples of a batch and of one modality, as means that can still be merged."""

    logits: Mean  # (p,) what its centre follows
    targets: Mean  # (p,) the share of each prototype in them
    entropy: Mean  # of each target, in nats


Stats = dict[str, dict[str, TeacherStats]]  # loss -> modality
Assign = Callable[[Float[Array, "b *m p"]], Float[Array, "b *m p"]]  # the teacher's logits to targets


def distillation_loss(
    student: Float[Array, "b *m p"], teacher: Float[Array, "b *m p"], assign: Assign, student_temperature: float
) -> tuple[Float[Array, " b"], TeacherStats]:
    """Self-distillation from prototype logits, of each sample; and the teacher's logits and targets, averaged."""
    targets = assign(teacher)
    loss = losses.cross_entropy(student, targets, student_temperature)
    # Patches: mean within a sample first, so that a CT does not outweigh an X-ray by its length.
    loss = loss.reshape(len(loss), -1).mean(axis=1)
    return loss, teacher_stats(teacher, targets)


def balanced(logits: Float[Array, "b *m p"], temperature: Scalar, iterations: int) -> Float[Array, "b *m p"]:
    """Sinkhorn-Knopp instead of a centre (DINOv2, arXiv 2304.07193, section 4): all rows together use all prototypes.

    Of patches every position is a row.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    return losses.sinkhorn(rows, temperature, iterations).reshape(logits.shape)


def teacher_stats(logits: Float[Array, "b *m p"], targets: Float[Array, "b *m p"]) -> TeacherStats:
    """Means over the samples, of patches over those of a sample first."""
    return TeacherStats(_over_samples(logits), _over_samples(targets), Mean.of(losses.entropy(targets)))


def _over_samples(values: Float[Array, "b *m p"]) -> Mean:
    each = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
    return Mean(each.sum(axis=0), jnp.float32(len(values)))


def target_information(stats: Stats) -> Metrics:
    """What a target carries about its sample, in nats, by loss and modality: near 0 the teacher has collapsed."""
    return {
        f"{modality}/{name}_information": Mean.of(losses.information(means.targets.value, means.entropy.value))
        for name, by_modality in stats.items()
        for modality, means in by_modality.items()
    }
