"""ConVIRT and CLIP: image against report, all tokens, no teacher.

ConVIRT (Zhang et al., arXiv 2010.00747): eq. 2 and 3, weighted by `image_weight`, temperature 0.1, non-linear
projections. CLIP (Radford et al., arXiv 2103.00020): both directions alike, a learnt temperature, linear projections.
The projections are `config.model.projection`. Both papers draw a sentence or a crop for each sample; here the
pipeline's augmentation stands for that. CTs go in as their volume's tokens, beside the X-rays of the batch.
"""

import flax.linen as nn

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Batch, PyTree, Step


class Objective(settings.Contrast, base.Objective):
    """L_vl alone."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The temperature, where it is learnt."""
        return {"scale": heads.Scale(1 / self.temperature)} if self.learn_temperature else {}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every image of the batch against every report."""
        pairs = common.encode_pairs(student, batch)
        temperature = 1 / student.head["scale"]() if self.learn_temperature else self.temperature
        to_report, to_image = losses.contrastive(pairs.z_image, pairs.z_text, temperature, common.studies(batch))
        each = self.image_weight * to_report + (1 - self.image_weight) * to_image
        return base.LossTerms({"vl": common.by_modality(each, batch)})
