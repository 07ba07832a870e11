"""The findings as targets of one linear classifier on CLS: the ceiling of the linear probe on pre-trained features.

Not a system of its own: the same towers, tokens, augmentation and steps as the systems beside it, with the labels that
they are judged by. Where it fails, the network or its tokens cannot hold a finding, whatever the pre-training; with
finer tokens (the preset fine_tokens) it shows what the tokens cost. CTs go in as their volume's tokens.
"""

import flax.linen as nn
import optax
from jax import numpy as jnp

from unimedi_jax.config import objectives as settings
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Float, PyTree, Step


def known_cross_entropy(logits: Float[Array, "b c"], labels: Float[Array, "b c"]) -> Float[Array, " b"]:
    """Binary cross-entropy of each sample, a mean over the labels that are known (not NaN); 0 where none is."""
    known = ~jnp.isnan(labels)
    each = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, labels, 0.0))
    return jnp.sum(each, axis=1, where=known) / jnp.maximum(known.sum(axis=1), 1)


class Objective(settings.Supervised, base.Objective):
    """Binary cross-entropy of every finding."""

    uses_reports = False
    uses_labels = True
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The classifier, one for both modalities."""
        return {"labels": nn.Dense(self.labels)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every image by its own CLS."""
        images = common.encode_images(student, batch)
        terms = {
            name: known_cross_entropy(student.head["labels"](image.cls.astype(jnp.float32)), batch[name]["labels"])
            for name, image in images.items()
        }
        return base.LossTerms({"labels": terms})
