"""The three losses of UniMedI, as pure functions of arrays.

L_vl   `contrastive`       image CLS against report CLS, over the global batch
L_icl  `self_distillation` student CLS against teacher CLS
L_pcl  `self_distillation` student patches against teacher patches, at the positions the student saw
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.typing import Array, Bool, Float, Int, Num, PyTree, Scalar, Shaped, Step, TextIds, TextMask

NOWHERE = -1e9  # a logit that is not there; times a target of 0 it is 0, which minus infinity is not


class Negated(NamedTuple):
    """Each sample's report with its findings turned into their opposite."""

    z: Float[Array, "b e"]
    differs: Bool[Array, " b"]  # from the report; where it does not, there is nothing to tell apart


class _Own(NamedTuple):
    """What belongs to a row of the similarities."""

    report: Int[Array, " c"]
    text: Float[Array, "c e"] | None
    negated: Negated | None


class _Others(NamedTuple):
    """What all rows are compared with."""

    z: Float[Array, "b e"]
    text: Float[Array, "b e"] | None


def contrastive(
    z_image: Float[Array, "b e"],
    z_text: Float[Array, "b e"],
    temperature: Scalar,
    report: Int[Array, " b"] | None = None,
    chunk: int = 0,
    soft: tuple[float, float] = (0.0, 1.0),
    negated: Negated | None = None,
) -> Float[Array, "2 b"]:
    """Symmetric InfoNCE, per sample: row 0 image to report, row 1 report to image.

    The embeddings are of unit length. Under `jit` with sharded inputs the batch is the global one: the compiler
    inserts the gather, and the gradient flows through it. Samples with the same number in `report` share one
    (identical reports); the target is then uniform over them. Reports embedded alike, without dropout say, give the
    same mean loss with and without it. The paper uses none of that (every report its own).

    `soft` is a share and a temperature: that share of the target is the softmax of the reports' cosines, without
    gradient. `negated` is one more negative for each image (row 0), never a target.

    At most `chunk` rows of the similarities exist at a time, forward and backward, so that memory grows with b and not
    with b^2; 0 is all of them. Spread over d devices, each holds chunk / d of the rows.
    """
    report = jnp.arange(len(z_image)) if report is None else report

    share, soft_temperature = soft
    text = jax.lax.stop_gradient(z_text) if share else None

    def each(rows: Float[Array, "c e"], own: _Own, others: _Others) -> Float[Array, " c"]:
        logits = (rows @ others.z.T).astype(jnp.float32) / temperature
        target = (own.report[:, None] == report[None]).astype(jnp.float32)
        target = target / jnp.sum(target, axis=-1, keepdims=True)
        if share:
            likeness = (own.text @ others.text.T).astype(jnp.float32)
            target = (1 - share) * target + share * jax.nn.softmax(likeness / soft_temperature)
        if own.negated is not None:
            logit = jnp.sum(rows * own.negated.z, axis=-1).astype(jnp.float32) / temperature
            logit = jnp.where(own.negated.differs, logit, NOWHERE)
            logits = jnp.concatenate([logits, logit[:, None]], axis=1)
            target = jnp.pad(target, [(0, 0), (0, 1)])
        return optax.softmax_cross_entropy(logits, target)

    ways = (z_image, z_text, negated), (z_text, z_image, None)
    return jnp.stack(
        [in_chunks(each, rows, _Own(report, text, extra), _Others(z, text), chunk) for rows, z, extra in ways]
    )


def in_chunks(loss: Callable, rows: Float[Array, "b e"], own: PyTree, others: PyTree, chunk: int) -> Num[Array, " b"]:
    """`loss(rows, own, others)` of each row against all `others`, of `chunk` rows at a time; 0 is all of them.

    `own` are arrays with a row for each of `rows`.

    Raises:
        ValueError: `chunk` is smaller than the batch and does not divide it.
    """
    batch = len(rows)
    if not 0 < chunk < batch:
        return loss(rows, own, others)
    if batch % chunk:
        raise ValueError(f"a batch of {batch} does not divide into chunks of {chunk}")
    # Gathered once, before the loop. The backward pass makes a chunk's similarities once more: they are not kept.
    others = jax.tree.map(placement.replicate, others)
    each = jax.checkpoint(lambda part: loss(*part, others), prevent_cse=False)
    return merge(jax.lax.map(each, jax.tree.map(lambda x: split(x, batch // chunk), (rows, own))))


def split(x: Shaped[Array, "b ..."], parts: int) -> Shaped[Array, "parts c ..."]:
    """A batch as `parts` of equal size; row i goes to part i mod `parts`, so that each device has a share of each."""
    return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)


def merge(x: Shaped[Array, "parts c ..."]) -> Shaped[Array, "b ..."]:
    """The batch that `split` has divided, its rows in their old order."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def same_report(text: TextIds, text_mask: TextMask, chunk: int = 0) -> Int[Array, " b"]:
    """For each report the number of the first that is word for word the same (padding ignored)."""
    text = placement.replicate(jnp.where(text_mask, text, -1))
    return jax.lax.map(lambda own: jnp.argmax(jnp.all(text == own[None], axis=-1)), text, batch_size=chunk or len(text))


def self_distillation(
    student: Float[Array, "*b p"],
    teacher: Float[Array, "*b p"],
    centre: Float[Array, " p"],
    student_temperature: float,
    teacher_temperature: Scalar,
) -> Float[Array, "*b"]:
    """Cross-entropy from the centred, sharpened teacher to the student (DINO, arXiv 2104.14294, eq. 1 and section 3.1).

    `student` and `teacher` are prototype logits of the same positions. No gradient reaches the teacher.
    """
    return cross_entropy(student, assignments(teacher, centre, teacher_temperature), student_temperature)


def cross_entropy(logits: Float[Array, "*b p"], target: Float[Array, "*b p"], temperature: float) -> Float[Array, "*b"]:
    """From targets, which get no gradient, to the shares that logits give at a temperature."""
    log_shares = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return -jnp.sum(jax.lax.stop_gradient(target) * log_shares, axis=-1)


def assignments(teacher: Float[Array, "*b p"], centre: Float[Array, " p"], temperature: Scalar) -> Float[Array, "*b p"]:
    """The teacher's targets: its logits centred and sharpened, a share for each prototype."""
    centred = teacher.astype(jnp.float32) - jnp.broadcast_to(centre, teacher.shape)
    return jax.nn.softmax(centred / temperature)


def teacher_temperature(ends: tuple[float, float], steps: int, step: Step) -> Float[Array, ""]:
    """Linear from the first to the second of `ends` in so many steps, then constant; without steps the second."""
    start, end = ends
    return jnp.asarray(optax.linear_schedule(start, end, steps)(step) if steps else end, jnp.float32)


def sinkhorn(scores: Float[Array, "b p"], epsilon: Scalar = 0.05, iterations: int = 3) -> Float[Array, "b p"]:
    """Shares of b samples in p prototypes which all serve alike (SwAV, arXiv 2006.09882, section 3.1); rows sum to 1.

    In logarithms, so that no score overflows. The caller stops the gradient, where the shares are a target.
    """
    logits = scores.astype(jnp.float32) / epsilon
    for _ in range(iterations):
        logits = jax.nn.log_softmax(jax.nn.log_softmax(logits, axis=0), axis=1)
    return jax.nn.softmax(logits, axis=1)


def koleo(x: Float[Array, "b d"], chunk: int = 0) -> Float[Array, " b"]:
    """Kozachenko-Leonenko: minus the logarithm of each sample's distance to its nearest neighbour on the unit sphere.

    DINOv2, arXiv 2304.07193, section 4 (Sablayrolles et al., arXiv 1806.03198). The gradient reaches the neighbour too.
    A floor of 1e-4 under the distance keeps the gradient of two equal samples finite; theirs is 1e-8. One sample alone
    has no neighbour, and a loss of 0. At most `chunk` rows of the similarities exist at a time.
    """
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))
    if len(x) == 1:
        return jnp.zeros(1)

    def nearest(rows: Float[Array, "c d"], own: Int[Array, " c"], others: Float[Array, "b d"]) -> Int[Array, " c"]:
        alone = own[:, None] == jnp.arange(len(others))[None]
        return jnp.argmax(jnp.where(alone, -jnp.inf, rows @ others.T), axis=1)

    fixed = jax.lax.stop_gradient(x)
    neighbour = in_chunks(nearest, fixed, jnp.arange(len(x)), fixed, chunk)
    square = jnp.sum((x - placement.replicate(x)[neighbour]) ** 2, axis=-1)
    return -0.5 * jnp.log(square + 1e-8)


def entropy(shares: Float[Array, "*b p"]) -> Float[Array, "*b"]:
    """Of each row of shares that sum to 1, in nats: log p where all prototypes serve alike, 0 where one serves all."""
    return jnp.sum(jax.scipy.special.entr(shares), axis=-1)


def information(mean_target: Float[Array, " p"], mean_entropy: Float[Array, ""]) -> Float[Array, ""]:
    """What a target carries about its sample, in nats: the entropy of the mean target minus the targets' mean entropy.

    At most the logarithm of the number of samples, and of that of prototypes. It is 0 in both collapses: one prototype
    for all samples, and all prototypes alike for each (DINO, arXiv 2104.14294, section 5.3), where the loss is near 0
    or near log p although the student agrees with the teacher.
    """
    return entropy(mean_target) - mean_entropy


def update_centre(
    centre: Float[Array, " p"], teacher: Float[Array, "*b p"], momentum: float = 0.9
) -> Float[Array, " p"]:
    """Running mean of the teacher's logits over the global batch (DINO eq. 4)."""
    mean = jnp.mean(teacher.astype(jnp.float32), axis=tuple(range(teacher.ndim - 1)))
    return momentum * centre + (1 - momentum) * mean
