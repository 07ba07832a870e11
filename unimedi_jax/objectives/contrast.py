"""ConVIRT and CLIP: image against report, all tokens, no teacher.

ConVIRT (Zhang et al., arXiv 2010.00747): eq. 2 and 3, weighted by `image_weight`, temperature 0.1, non-linear
projections. CLIP (Radford et al., arXiv 2103.00020): both directions alike, a learnt temperature, linear projections.
The projections are `config.model.projection`. Both papers draw a sentence or a crop for each sample; here the
pipeline's augmentation stands for that. CTs go in as their volume's tokens, beside the X-rays of the batch.
"""

import dataclasses

import flax.linen as nn

from unimedi_jax import losses
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """L_vl alone."""

    temperature: float = 0.07  # where it starts, if it is learnt
    learn_temperature: bool = False
    image_weight: float = 0.5  # of image to report; the rest is of report to image

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is above 0, not {self.temperature}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """The temperature, where it is learnt."""
        return {"scale": heads.Scale(1 / self.temperature)} if self.learn_temperature else {}

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
        """Every image of the batch against every report."""
        _, _, z_image, z_text, batch_stats = common.pair(params, stats, batch, key, model=model)
        temperature = self.temperature
        if self.learn_temperature:
            temperature = 1 / common.through("scale", params, model=model)
        to_report, to_image = losses.contrastive(z_image, z_text, temperature)
        each = self.image_weight * to_report + (1 - self.image_weight) * to_image
        parts = {"vl": common.by_modality(each, batch)}
        return common.with_total(parts, {"vl": 1.0}, {"batch_stats": batch_stats})
