"""SigLIP: every pair of the batch is judged by itself, and not one image against all reports.

Zhai et al., arXiv 2303.15343, section 3.2 and algorithm 1: the logistic loss of all b x b pairs, with a learnt scale t
(from 10, learnt as its logarithm) and a learnt bias b (from -10, so that the many negatives do not pull at the start).
Section 3.3 swaps reports between devices so that no device holds the whole matrix; here `contrastive_chunk` rows of it
exist at a time, and the compiler places them.

Deviations: the projections take CLS, where the paper has attention pooling; towers, optimiser and decay are the
house's; X-rays and CTs of a batch are negatives of each other, and so are equal reports.
"""

import dataclasses
import math

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses, placement
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """The sigmoid loss alone."""

    scale: float = 10.0  # t at the start
    bias: float = -10.0  # b at the start
    contrastive_chunk: int = 0  # rows of the similarities that exist at a time; 0 = all

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale is above 0, not {self.scale}")
        if self.contrastive_chunk < 0:
            raise ValueError(f"contrastive_chunk is 0 (all rows) or a number of rows, not {self.contrastive_chunk}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """Scale, which nothing bounds, and bias."""
        return {"scale": heads.Scale(self.scale, most=math.inf), "bias": Bias(self.bias)}

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
        """Every image of the batch with every report."""
        _, _, z_image, z_text, batch_stats = common.pair(params, stats, batch, key, model=model)
        scale, bias = (common.through(name, params, model=model) for name in ("scale", "bias"))
        each = sigmoid(z_image, z_text, scale, bias, self.contrastive_chunk)
        parts = {"vl": common.by_modality(each, batch)}
        return common.with_total(parts, {"vl": 1.0}, {"batch_stats": batch_stats})


class Bias(nn.Module):
    """A learnt number that all similarities share."""

    start: float

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("value", nn.initializers.constant(self.start), ())

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameter."""
        self()


def sigmoid(
    z_image: Float[Array, "b e"],
    z_text: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    chunk: int = 0,
) -> Float[Array, " b"]:
    """The logistic loss of the pairs of each image, summed over the reports: its own is to match, all others not.

    The embeddings are of unit length. `chunk` rows of the similarities exist at a time, forward and backward, as in
    `losses.contrastive`; 0 is all of them.

    Raises:
        ValueError: `chunk` does not divide the batch.
    """
    batch = len(z_image)
    if chunk and batch % chunk:
        raise ValueError(f"a batch of {batch} does not divide into chunks of {chunk}")
    number = jnp.arange(batch)

    def judge(rows: Float[Array, "c e"], own: Int[Array, " c"], others: Float[Array, "b e"]) -> Float[Array, " c"]:
        logits = scale * (rows @ others.T).astype(jnp.float32) + bias
        sign = jnp.where(own[:, None] == number[None], 1.0, -1.0)
        return -jnp.sum(jax.nn.log_sigmoid(sign * logits), axis=-1)

    if chunk in (0, batch):
        return judge(z_image, number, z_text)
    reports = placement.replicate(z_text)  # gathered once, before the loop
    each = jax.checkpoint(lambda part: judge(*part, reports), prevent_cse=False)
    parts = (losses.split(z_image, batch // chunk), losses.split(number, batch // chunk))
    return losses.merge(jax.lax.map(each, parts))
