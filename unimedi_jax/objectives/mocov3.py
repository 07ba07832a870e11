"""MoCo v3: two views of an image find each other among the other images of the batch.

Chen, Xie and He, "An empirical study of training self-supervised vision transformers" (arXiv 2104.02057): algorithm 1
with its factor of 2 tau, both directions, the momentum encoder, the projector of three layers and the predictor of two.
Reports are not used. The paper's fixed random patch embedding is `config.freeze_patch_embed`, its positions start as
`config.model.position_init=sincos`, though they are learned here.

Differences: an image's negatives are those of its own modality, since X-rays and CTs are distinguished without any
learning; both modalities go through the same heads, one after the other, so that BatchNorm sees one at a time. It uses
the current batch, view by view, as the paper does in training, and keeps no running mean. The layers are
`config.model.head_hidden` wide (the paper: 4096), the result `head_bottleneck` (256, as in the paper). Views: see
`crops`.
"""

import flax.linen as nn
import jax

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, PyTree, Step


def momentum_contrast(
    queries: Float[Array, "b 2 e"], targets: Float[Array, "b 2 e"], temperature: float
) -> Float[Array, " b"]:
    """Each view's query against the other view's key of every sample: eq. 1 both ways, times 2 tau.

    Vectors are of unit length. No gradient reaches `targets`, the keys.
    """
    targets = jax.lax.stop_gradient(targets)
    first = losses.contrastive(queries[:, 0], targets[:, 1], temperature)[0]
    second = losses.contrastive(queries[:, 1], targets[:, 0], temperature)[0]
    return 2 * temperature * (first + second)


class Objective(settings.MoCoV3, base.Objective):
    """The loss of algorithm 1 within each modality."""

    teacher = ("vision", "head_projector")
    uses_reports = False
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Projector and predictor; the second has no momentum."""
        hidden, out, dtype = model.head_sizes.hidden, model.head_sizes.bottleneck, model.vision.dtype
        return {
            "projector": heads.NormedMlp((hidden, hidden, out), last_norm=True, dtype=dtype),
            "predictor": heads.NormedMlp((hidden, out), last_norm=True, dtype=dtype),
        }

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Two views of every sample, through the student and through its momentum encoder."""
        terms = {}
        for modality in common.modalities(batch):
            x = crops.to_image(student, modality, batch[modality]["tokens"])
            views = crops.random_crops(student.make_rng("draws"), x, self).images
            lateral = common.lateral(batch, modality)
            targets = teacher.head["projector"](crops.encode_views(teacher, views, lateral))
            queries = student.head["projector"](crops.encode_views(student, views, lateral))
            queries = student.head["predictor"](queries)
            terms[modality] = momentum_contrast(heads.unit(queries), heads.unit(targets), self.temperature)
        return base.LossTerms({"moco": terms})
