"""SimMIM: mask most of an image and predict its pixels.

Xie et al., arXiv 2111.09886: random blocks of 32 x 32 pixels, 0.6 of the image, become a learnt vector (section 3.2);
the whole sequence goes through the encoder, and one linear layer predicts the pixels of every patch (section 3.3). The
loss is the L1 distance over the masked pixels alone, eq. 1 of section 3.4. Reports are not used.

Differences: the encoder is the shared ViT with learnt positions (the paper's ViT also has relative position biases; its
main results are Swin's). `block` counts tokens, 2 of 16 pixels for the paper's 32; in a volume it holds along all
three axes, 2 x 2 x 2 patches. A grid that it does not divide (the demo's 7 x 7) is masked token by token. Targets are
grey values in [-1, 1], as the tokenizers take them. Crops are the pipeline's, never mirrored. The CLS after the last
layer has no loss of its own, as in the paper, which pools patches.
"""

import math

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, PyTree, Step


def masked_absolute_error(
    predicted: Float[Array, "b n v"], pixels: Float[Array, "b n v"], mask: Bool[Array, "b n"]
) -> Float[Array, " b"]:
    """Eq. 1: the mean absolute difference over the pixels of the masked patches, for every sample."""
    errors = jnp.mean(jnp.abs(predicted.astype(jnp.float32) - pixels.astype(jnp.float32)), axis=-1)
    return masked.masked_mean(errors, mask)


def predict_pixels(
    student: UniMedI,
    modality: str,
    pixels: Float[Array, "b n v"],
    mask: Bool[Array, "b n"],
    lateral: vision.Lateral = None,
) -> Float[Array, "b n v"]:
    """The pixels of all patches, from those that are not masked."""
    tokens = student.embed_pixels(modality, pixels, common.grid(student, modality), mask, lateral)
    return student.head[f"pixels_{modality}"](student.encode(tokens).patches)


class Objective(settings.SimMIM, base.Objective):
    """Masked pixels of X-rays, of volumes, or of both."""

    uses_reports = False
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """A linear map to pixels and one to voxels."""
        return {
            f"pixels_{modality}": heads.Linear(math.prod(common.patch(model, modality)), dtype=model.vision.dtype)
            for modality in ("xray", "ct")
        }

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Random blocks of every image are masked, and their pixels predicted."""
        losses = {}
        for modality in common.modalities(batch):
            pixels = student.pixels(modality, batch[modality]["tokens"])
            grid = common.grid(student, modality)
            mask = masked.random_block_mask(student.make_rng("draws"), len(pixels), grid, self.mask_ratio, self.block)
            predicted = predict_pixels(student, modality, pixels, mask, common.lateral(batch, modality))
            losses[modality] = masked_absolute_error(predicted, pixels, mask)
        return base.LossTerms({"mim": losses})
