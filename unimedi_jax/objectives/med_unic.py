"""Med-UniC: image against report, image against its crop, and reports decorrelated by feature and by instance.

Med-UniC (Wan et al., arXiv 2305.19894) trains on English and Spanish reports together: L = L_cvl + lambda_t L_ctr.
L_cvl is the symmetric InfoNCE of image and report and that of two views of the image. L_ctr, the cross-lingual text
alignment regularisation, needs no negatives and no pairs across languages: each report is encoded twice, dropout making
the two views, a projection of its own maps both, and the cross-correlations of the two are drawn to the identity, once
between features over the batch (L_tf) and once between instances over the features (L_ti), as in Barlow Twins.

Deviations:
- reports are in whatever language the data have. The two stages before, a vocabulary and masked words of both
  languages, are the tokenizer's and `config.init.report`'s business;
- the second view of an image is a random crop of whole patches; pipeline augmentation alone makes the first;
- both correlation matrices are true ones, standardised over the axis that they sum. In the authors' code L_ti sums
  features that are standardised over the batch and divides by the size of the batch;
- lambda_t is in none of the published scripts: `weight_feature` and `weight_instance` are the code's constants, 1/4 and
  1/200, times 1. L_tf and L_ti are divided by the number of features and of instances, as there;
- BatchNorm of the projection has the statistics of the batch and keeps none: it is not used after training;
- the joint space is as wide as `config.model.embedding`; the authors' 512.
L_tf is one number a batch and counts alike for every sample of it. CTs go in as their volume's tokens.
"""

from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Float, Key, Num, PyTree, Step


class Objective(settings.MedUniC, base.Objective):
    """Contrast between image and report and between views of an image; L_tf and L_ti between views of a report."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The reports' second projection.

        Raises:
            ValueError: the report tower has no dropout, which alone makes two views of a report.
        """
        if not model.report.dropout:
            raise ValueError("report_dropout=0 encodes every report twice alike, and Med-UniC compares the two")
        return {"features": Features(self.hidden, self.features, model.report.dtype)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Two views of every image and two of every report."""
        keys = common.keys(student.make_rng("draws"), "xray", "ct")
        pairs = common.encode_pairs(student, batch)
        one, other = pairs.reports.vector, common.encode_reports(student, batch).vector
        names = common.modalities(batch)
        cropped = {name: self.encode_crop(student, name, batch, keys[name]) for name in names}
        # On a copy: the running statistics are those of whole images.
        model, variables = student.unbind()
        z_crop = model.bind(variables, mutable=["batch_stats"]).project(cropped, other, True)[0]
        first, second = student.head["features"](one), student.head["features"](other)
        by_feature = jnp.mean(decorrelation(first.T, second.T, self.off_diagonal))
        rows = {
            "vl": losses.contrastive(pairs.z_image, pairs.z_text, self.temperature, common.studies(batch)).mean(axis=0),
            "vv": losses.contrastive(pairs.z_image, z_crop, self.temperature).mean(axis=0),
            "feature": jnp.full(len(first), by_feature),
            "instance": decorrelation(first, second, self.off_diagonal),
        }
        return base.LossTerms({name: common.by_modality(each, batch) for name, each in rows.items()})

    def encode_crop(self, network: UniMedI, name: str, batch: Batch, key: Key[Array, ""]) -> Float[Array, "b d"]:
        """CLS of a random crop of every sample of a modality."""
        grid = common.grid(network, name)
        size = tuple(max(1, round(self.crop * count)) for count in grid)
        pixels = network.pixels(name, crop(batch[name]["tokens"], grid, size, key))
        lateral = common.lateral(batch, name)
        return network.encode(network.embed_pixels(name, pixels, size, lateral=lateral)).cls


class Features(nn.Module):
    """Dense, BatchNorm, ReLU, Dense, BatchNorm without scale, with the statistics of the batch. Float32."""

    hidden: int
    width: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Float[Array, "b w"]) -> Float[Array, "b e"]:
        x = standardise(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x), axis=0)
        scale = self.param("scale", nn.initializers.ones, (self.hidden,))
        bias = self.param("bias", nn.initializers.zeros, (self.hidden,))
        x = nn.relu(x * scale[None] + bias[None]).astype(self.dtype)
        return standardise(nn.Dense(self.width, dtype=self.dtype, name="fc2")(x), axis=0)


def standardise(x: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
    """Mean 0 and variance 1 over `axis`, in float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=axis, keepdims=True) + 1e-5)


def decorrelation(one: Float[Array, "m n"], other: Float[Array, "m n"], off_diagonal: float) -> Float[Array, " m"]:
    """Row i of the two against each other: (1 - c_ii)^2 and, weighted, the sum of c_ij^2 over all j that are not i.

    c is the correlation of rows over columns. Samples by features give L_ti; transposed they give L_tf.
    """
    correlation = standardise(one, axis=1) @ standardise(other, axis=1).T / one.shape[1]
    own = jnp.diagonal(correlation)
    return (1 - own) ** 2 + off_diagonal * (jnp.sum(correlation**2, axis=1) - own**2)


def crop(
    tokens: Num[Array, "b n v"], grid: tuple[int, ...], size: tuple[int, ...], key: Key[Array, ""]
) -> Num[Array, "b m v"]:
    """A box of `size` tokens out of a `grid` of them, at a random place of its own for every sample."""
    index = jnp.zeros((len(tokens), 1), jnp.int32)
    for count, side, drawn in zip(grid, size, jax.random.split(key, len(grid)), strict=True):
        start = jax.random.randint(drawn, (len(tokens), 1), 0, count - side + 1)
        along = start + jnp.arange(side)[None]
        index = (index[:, :, None] * count + along[:, None]).reshape(len(tokens), -1)
    return selection.gather_tokens(tokens, index)
