"""MoCo v3: two views of an image find each other among the other images of the batch.

Chen, Xie and He, "An empirical study of training self-supervised vision transformers" (arXiv 2104.02057): algorithm 1
with its factor of 2 tau, both directions, the momentum encoder, the projector of three layers and the predictor of two.
Reports are not read. The paper's fixed random patch embedding is `config.freeze_patch_embed`, its positions start as
`config.model.position_init=sincos`, though they are learned here.

Otherwise than there: an image's negatives are those of its own modality, as a film and a CT are told apart without any
learning; both modalities go through the same heads, one after the other, so that BatchNorm sees one at a time. It uses
the batch at hand, view by view, as in training there, and keeps no running mean. The layers are
`config.model.head_hidden` wide (the paper: 4096), the result `head_bottleneck` (256, as there). Views: see `crops`.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from unimedi_jax import losses
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Params, PyTree


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


@dataclasses.dataclass(frozen=True)
class Objective(crops.Settings, base.Objective):
    """The loss of algorithm 1 within each modality."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    temperature: float = 0.2

    teacher: ClassVar[tuple[str, ...]] = ("vision", "head_projector")
    reads: ClassVar[bool] = False
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature is above 0, not {self.temperature}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """Projector and predictor; the second has no momentum."""
        hidden, out, dtype = model.head_sizes.hidden, model.head_sizes.bottleneck, model.vision.dtype
        return {
            "projector": heads.NormedMlp((hidden, hidden, out), last_norm=True, dtype=dtype),
            "predictor": heads.NormedMlp((hidden, out), inputs=out, last_norm=True, dtype=dtype),
        }

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
        """Two views of every sample, through the student and through its momentum encoder."""
        keys = common.keys(key, "xray", "ct")
        each = {}
        for name in common.modalities(batch):
            x = crops.whole(name, batch[name]["tokens"], model=model)
            views = crops.crop(keys[name], x, 2, x.shape[1:], self.crop_scale, self).images
            targets = common.through("projector", teacher, crops.see(teacher, views, model=model), model=model)
            queries = common.through("projector", params, crops.see(params, views, model=model), model=model)
            queries = common.through("predictor", params, queries, model=model)
            each[name] = momentum_contrast(heads.unit(queries), heads.unit(targets), self.temperature)
        return common.with_total({"moco": each}, {"moco": 1.0}, stats)
