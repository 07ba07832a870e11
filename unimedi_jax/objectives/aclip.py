"""A-CLIP: image against report on the tokens that an EMA teacher looks at, in two views, with SimCLR and BYOL between.

Yang et al., "Attentive mask CLIP" (arXiv 2212.08653), and its public code. The teacher sees a larger view, here the
whole sample as it is, and scores its tokens by its CLS attention (UniMedI's eq. 1 comes from here). Two crops of the
sample take their part of this map and keep the better half of their tokens. The loss is half the contrast with the
report of each view, SimCLR's loss between the views, and twice BYOL's between each view and the teacher's.

Differences: the teacher sees the whole sample, where the paper gives it a crop that encloses the two others; a CT goes
in as its volume's tokens, with a map in three dimensions. Single tokens are selected, or on X-rays blocks of
`mask_block` (the paper: 2 x 2). SimCLR's negatives are those of the same modality, the reports' those of the whole
batch. The released code gives SimCLR the same view twice; here it has both, as in the paper. BatchNorm in the heads
uses the current batch, view by view, and keeps no running mean; the layers are `config.model.head_hidden` wide (4096),
the results `head_bottleneck` (256). The frozen patch embedding is `config.freeze_patch_embed`. The report tower has no
teacher; the paper's serves evaluation alone. Views: see `crops`.
"""

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, Int, PyTree, Step


def simclr(first: Float[Array, "b e"], second: Float[Array, "b e"], temperature: float) -> Float[Array, " b"]:
    """NT-Xent (arXiv 2002.05709, eq. 1): a view finds the sample's other among all other views; the mean of both ways.

    Vectors are of unit length.
    """
    batch = len(first)
    own = jnp.where(jnp.eye(batch, dtype=bool), -jnp.inf, 0.0)  # a view is not its own negative

    def one_way(view: Array, other: Array) -> Array:
        logits = jnp.concatenate([view @ other.T / temperature, view @ view.T / temperature + own], axis=1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(batch))

    return (one_way(first, second) + one_way(second, first)) / 2


def byol(predicted: Float[Array, "b c e"], target: Float[Array, "b e"]) -> Float[Array, " b"]:
    """2 - 2 cos of each view's prediction and the teacher's vector (arXiv 2006.07733, eq. 2), the mean of the views.

    Vectors are of unit length. No gradient reaches `target`.
    """
    likeness = jnp.einsum("bce,be->bc", predicted, jax.lax.stop_gradient(target))
    return 2 - 2 * jnp.mean(likeness, axis=1)


class Objective(settings.ACLIP, base.Objective):
    """L_vl of both views, SimCLR and BYOL."""

    teacher = ("vision", "head_projector")

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """BYOL's projector and predictor, SimCLR's projector, and the temperature, where it is learnt.

        Raises:
            ValueError: blocks do not divide an X-ray's grid.
        """
        selection.check_blocks(model.vision.image_grid, self.mask_block)
        hidden, out, dtype = model.head_sizes.hidden, model.head_sizes.bottleneck, model.vision.dtype
        mlps = {
            "projector": heads.NormedMlp((hidden, out), dtype=dtype),
            "predictor": heads.NormedMlp((hidden, out), dtype=dtype),
            "simclr": heads.NormedMlp((hidden, hidden, out), dtype=dtype),
        }
        return mlps | ({"scale": heads.Scale(1 / self.temperature)} if self.learn_temperature else {})

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """The teacher on every sample, the student on half of the tokens of two views, reports once."""
        cls, between = {}, {"simclr": {}, "byol": {}}
        for modality in common.modalities(batch):
            views = batch[modality]["tokens"], common.lateral(batch, modality)
            cls[modality], target = self.encode(student, teacher, modality, *views)
            vectors = heads.unit(student.head["simclr"](cls[modality]))
            between["simclr"][modality] = simclr(vectors[:, 0], vectors[:, 1], self.simclr_temperature)
            predicted = student.head["predictor"](student.head["projector"](cls[modality]))
            between["byol"][modality] = byol(heads.unit(predicted), target)
        vectors = student.encode_text(*common.reports(batch), True)
        vl = self.report_loss(student, cls, vectors, common.studies(batch))
        return base.LossTerms({"vl": common.by_modality(vl, batch), **between})

    def encode(
        self, student: UniMedI, teacher: UniMedI, modality: str, tokens: Array, lateral: vision.Lateral = None
    ) -> tuple[Float[Array, "b 2 d"], Float[Array, "b e"]]:
        """The student's CLS of both views, and the unit vector of the teacher's that BYOL aims at."""
        whole = teacher.encode(common.embed(teacher, modality, tokens, lateral), scores=True)
        target = heads.unit(teacher.head["projector"](whole.cls))
        x = crops.to_image(student, modality, tokens)
        views = crops.random_crops(student.make_rng("draws"), x, self)
        index = self.choose_tokens(modality, whole.scores, views, common.grid(student, modality))
        chosen = selection.gather_tokens(crops.embed_views(student, views.images, lateral), index)
        return student.encode(chosen).cls.reshape(len(tokens), 2, -1), target

    def choose_tokens(
        self, modality: str, scores: Float[Array, "b n"], views: crops.Crops, grid: tuple[int, ...]
    ) -> Int[Array, "bc k"]:
        """The tokens of each view that the student sees: the best by the view's part of the teacher's map."""
        count = scores.shape[1]
        scores = crops.crop_and_resize(scores.reshape(-1, *grid), views.low, views.size, grid).reshape(-1, count)
        return selection.best_tokens(scores, self.mask_ratio, grid, self.mask_block)

    def report_loss(
        self,
        student: UniMedI,
        cls: dict[str, Float[Array, "_ 2 d"]],
        reports: Float[Array, "b d"],
        study: Int[Array, " b"] | None = None,
    ) -> Float[Array, " b"]:
        """L_vl of each sample, the mean of its two views; the projections' running statistics follow both."""
        temperature = 1 / student.head["scale"]() if self.learn_temperature else self.temperature
        each = []
        for view in range(2):
            z_image, z_text = student.project({modality: x[:, view] for modality, x in cls.items()}, reports, True)
            each.append(losses.contrastive(z_image, z_text, temperature, study).mean(axis=0))
        return (each[0] + each[1]) / 2
