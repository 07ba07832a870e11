"""SigLIP: every pair of the batch is judged by itself, and not one image against all reports.

Zhai et al., arXiv 2303.15343, section 3.2 and algorithm 1: the logistic loss of all b x b pairs, with a learnt scale t
(from 10, learnt as its logarithm) and a learnt bias b (from -10, so that the many negatives do not pull at the start).
Section 3.3 swaps reports between devices so that no device holds the whole matrix; here `contrastive_chunk` rows of it
exist at a time, and the compiler places them.

Deviations: the projections take CLS, where the paper has attention pooling; towers, optimiser and decay are this
project's; X-rays and CTs of a batch are negatives of each other, and so are equal reports.
"""

import math

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Float, Int, PyTree, Scalar, Step


class Objective(settings.SigLIP, base.Objective):
    """The sigmoid loss alone."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Scale, which nothing bounds, and bias."""
        return {"scale": heads.Scale(self.scale, most=math.inf), "bias": Bias(self.bias)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every image of the batch with every report."""
        pairs = common.encode_pairs(student, batch)
        scale, bias = student.head["scale"](), student.head["bias"]()
        each = sigmoid(pairs.z_image, pairs.z_text, scale, bias, self.contrastive_chunk, common.studies(batch))
        return base.LossTerms({"vl": common.by_modality(each, batch)})


class Bias(nn.Module):
    """A learnt number that all similarities share."""

    start: float

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("value", nn.initializers.constant(self.start), ())


def sigmoid(
    z_image: Float[Array, "b e"],
    z_text: Float[Array, "b e"],
    scale: Scalar,
    bias: Scalar,
    chunk: int = 0,
    study: Int[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """The logistic loss of the pairs of each image, summed over the reports: its own is to match, all others not.

    The embeddings are of unit length. At most `chunk` rows of the similarities exist at a time, forward and backward,
    as in `losses.contrastive`; 0 is all of them. Pictures with the same number in `study` match each other's reports.
    """
    number = jnp.arange(len(z_image)) if study is None else study

    def one_chunk(rows: Float[Array, "c e"], own: Int[Array, " c"], others: Float[Array, "b e"]) -> Float[Array, " c"]:
        logits = scale * (rows @ others.T).astype(jnp.float32) + bias
        sign = jnp.where(own[:, None] == number[None], 1.0, -1.0)
        return -jnp.sum(jax.nn.log_sigmoid(sign * logits), axis=-1)

    return losses.in_chunks(one_chunk, z_image, number, z_text, chunk)
