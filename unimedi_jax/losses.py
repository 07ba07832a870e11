"""The three losses of UniMedI, as pure functions of arrays.

L_vl   `contrastive`       image CLS against report CLS, over the global batch
L_icl  `self_distillation` student CLS against teacher CLS
L_pcl  `self_distillation` student patches against teacher patches, at the positions the student saw
"""

import jax
import optax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Bool, Float, Int


def contrastive(
    z_image: Float[Array, "b e"],
    z_text: Float[Array, "b e"],
    temperature: Float[Array, ""] | float,
    positives: Bool[Array, "b b"] | None = None,
) -> Float[Array, "2 b"]:
    """Symmetric InfoNCE, per sample: row 0 image to report, row 1 report to image.

    The embeddings are of unit length. Under `jit` with sharded inputs the batch is the global one: the compiler
    inserts the gather, and the gradient flows through it. `positives[i, j]` says that report j also describes
    image i (identical reports); the target is then uniform over the positives. Reports embedded alike, without dropout
    say, give the same mean loss with and without it. The paper uses none of that (positives = the diagonal).
    """
    logits = (z_image @ z_text.T).astype(jnp.float32) / temperature
    target = jnp.eye(len(logits)) if positives is None else positives.astype(jnp.float32)

    def cross_entropy(logits: Array, target: Array) -> Array:
        target = target / jnp.sum(target, axis=-1, keepdims=True)
        return optax.softmax_cross_entropy(logits, target)

    return jnp.stack([cross_entropy(logits, target), cross_entropy(logits.T, target.T)])


def same_report(text: Int[Array, "b l"], text_mask: Bool[Array, "b l"]) -> Bool[Array, "b b"]:
    """Which pairs of reports are word for word the same (padding ignored)."""
    text = jnp.where(text_mask, text, -1)
    return jnp.all(text[:, None] == text[None, :], axis=-1)


def self_distillation(
    student: Float[Array, "*b p"],
    teacher: Float[Array, "*b p"],
    centre: Float[Array, " p"],
    student_temperature: float,
    teacher_temperature: Float[Array, ""] | float,
) -> Float[Array, "*b"]:
    """Cross-entropy from the centred, sharpened teacher to the student (DINO, arXiv 2104.14294, eq. 1 and section 3.1).

    `student` and `teacher` are prototype logits of the same positions. No gradient reaches the teacher.
    """
    target = _assigned(teacher, centre, teacher_temperature)
    log_student = jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature)
    return -jnp.sum(jax.lax.stop_gradient(target) * log_student, axis=-1)


def prototypes_used(
    teacher: Float[Array, "*b p"], centre: Float[Array, " p"], temperature: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Perplexity of the teacher's mean target: p where all prototypes serve alike, 1 where all samples have one alone.

    The second is the collapse that centring is there to prevent (DINO section 5.3), and a loss near 0 does not tell
    it from a student that agrees.
    """
    mean = jnp.mean(_assigned(teacher, centre, temperature), axis=tuple(range(teacher.ndim - 1)))
    return jnp.exp(jnp.sum(jax.scipy.special.entr(mean)))


def _assigned(teacher: Array, centre: Array, temperature: Array | float) -> Array:
    """What the teacher says of each position: its logits centred and sharpened."""
    centred = teacher.astype(jnp.float32) - jnp.broadcast_to(centre, teacher.shape)
    return jax.nn.softmax(centred / temperature)


def update_centre(
    centre: Float[Array, " p"], teacher: Float[Array, "*b p"], momentum: float = 0.9
) -> Float[Array, " p"]:
    """Running mean of the teacher's logits over the global batch (DINO eq. 4)."""
    mean = jnp.mean(teacher.astype(jnp.float32), axis=tuple(range(teacher.ndim - 1)))
    return momentum * centre + (1 - momentum) * mean
