"""A-CLIP: image against report on the tokens that an EMA teacher looks at, in two views, with SimCLR and BYOL between.

Yang et al., "Attentive mask CLIP" (arXiv 2212.08653), and its public code. The teacher sees a larger view, here the
whole sample as it is, and scores its tokens by its CLS attention (UniMedI's eq. 1 comes from here). Two crops of the
sample take their part of this map and keep the better half of their tokens. The loss is half the contrast with the
report of each view, SimCLR's loss between the views, and twice BYOL's between each view and the teacher's.

Otherwise than there: the teacher's view is the whole sample, where the paper crops it too, about the two others; a CT
goes in as its volume's tokens, with a map in three dimensions. Single tokens are kept, or blocks of `mask_block` on
films (the paper: 2 x 2). SimCLR's negatives are those of the same modality, the reports' those of the whole batch. The
released code gives SimCLR the same view twice; here it has both, as in the paper. BatchNorm in the heads uses the batch
at hand, view by view, and keeps no running mean; the layers are `config.model.head_hidden` wide (4096), the results
`head_bottleneck` (256). The frozen patch embedding is `config.freeze_patch_embed`. The report tower has no teacher:
there it serves evaluation alone. Views: see `crops`.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Params, PyTree


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


@dataclasses.dataclass(frozen=True)
class Objective(crops.Settings, base.Objective):
    """L_vl of both views, SimCLR and BYOL."""

    crop_scale: tuple[float, float] = (0.5, 1.0)
    temperature: float = 0.07  # of L_vl, where it starts, if it is learnt
    learn_temperature: bool = True
    simclr_temperature: float = 0.1
    weight_vl: float = 1.0  # half of it for each view
    weight_simclr: float = 1.0
    weight_byol: float = 2.0
    mask_ratio: float = 0.5  # share of a view's tokens that the student does not see
    mask_block: int = 1  # 2 keeps 2x2 blocks of a film's tokens, as in the paper

    teacher: ClassVar[tuple[str, ...]] = ("vision", "head_projector")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is at least 0 and below 1, not {self.mask_ratio}")
        for name in ("temperature", "simclr_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)}")
        if self.mask_block < 1:
            raise ValueError(f"mask_block is at least 1, not {self.mask_block}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """BYOL's projector and predictor, SimCLR's projector, and the temperature, where it is learnt.

        Raises:
            ValueError: blocks do not divide a film.
        """
        selection.check_blocks(model.vision.image_grid, self.mask_block)
        hidden, out, dtype = model.head_sizes.hidden, model.head_sizes.bottleneck, model.vision.dtype
        made = {
            "projector": heads.NormedMlp((hidden, out), dtype=dtype),
            "predictor": heads.NormedMlp((hidden, out), inputs=out, dtype=dtype),
            "simclr": heads.NormedMlp((hidden, hidden, out), dtype=dtype),
        }
        return made | ({"scale": heads.Scale(1 / self.temperature)} if self.learn_temperature else {})

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
        """The teacher on every sample, the student on half of the tokens of two views, reports once."""
        keys = common.keys(key, "xray", "ct", "dropout")
        cls, between = {}, {"simclr": {}, "byol": {}}
        for name in common.modalities(batch):
            seen, target = self.see(name, params, teacher, batch[name]["tokens"], keys[name], model=model)
            vectors = heads.unit(common.through("simclr", params, seen, model=model))
            between["simclr"][name] = simclr(vectors[:, 0], vectors[:, 1], self.simclr_temperature)
            predicted = common.through("projector", params, seen, model=model)
            predicted = heads.unit(common.through("predictor", params, predicted, model=model))
            between["byol"][name] = byol(predicted, target)
            cls[name] = seen
        reports = common.read(params, batch, keys["dropout"], model=model).vector
        each, batch_stats = self.against_reports(params, stats, cls, reports, model=model)
        parts = {"vl": common.by_modality(each, batch), **between}
        weights = {name: getattr(self, f"weight_{name}") for name in parts}
        return common.with_total(parts, weights, {"batch_stats": batch_stats})

    def see(
        self, name: str, params: Params, teacher: Params, tokens: Array, key: Key[Array, ""], *, model: towers.UniMedI
    ) -> tuple[Float[Array, "b 2 d"], Float[Array, "b e"]]:
        """The student's CLS of both views, and the unit vector of the teacher's that BYOL aims at."""
        whole = common.embed(name, teacher, tokens, model=model)
        taught = model.apply({"params": teacher}, whole, True, method="encode")
        target = heads.unit(common.through("projector", teacher, taught.cls, model=model))
        x = crops.whole(name, tokens, model=model)
        views = crops.crop(key, x, 2, x.shape[1:], self.crop_scale, self)
        keep = self.choose(name, taught.scores, views, model=model)
        kept = selection.gather(crops.embed(params, views.images, model=model), keep)
        cls = model.apply({"params": params}, kept, method="encode").cls
        return cls.reshape(len(tokens), 2, -1), target

    def choose(
        self, name: str, scores: Float[Array, "b n"], views: crops.Crops, *, model: towers.UniMedI
    ) -> Int[Array, "bc k"]:
        """The tokens of each view that the student sees: the best by the view's part of the teacher's map."""
        cells, count = crops.layout(name, model=model)[0], scores.shape[1]
        scores = crops.cut(scores.reshape(-1, *cells), views.low, views.size, cells).reshape(-1, count)
        if name == "xray" and self.mask_block > 1:
            blocks = selection.kept(count // self.mask_block**2, self.mask_ratio)
            return selection.top_blocks(scores, cells, self.mask_block, blocks)
        return selection.top(scores, selection.kept(count, self.mask_ratio))

    def against_reports(
        self,
        params: Params,
        stats: PyTree,
        cls: dict[str, Float[Array, "_ 2 d"]],
        reports: Float[Array, "b d"],
        *,
        model: towers.UniMedI,
    ) -> tuple[Float[Array, " b"], PyTree]:
        """L_vl of each sample, the mean of its two views; the projections' statistics have seen both."""
        temperature = self.temperature
        if self.learn_temperature:
            temperature = 1 / common.through("scale", params, model=model)
        each = []
        for view in range(2):
            images = {name: x[:, view] for name, x in cls.items()}
            z_image, z_text, batch_stats = common.project(params, stats, images, reports, model=model)
            stats = {"batch_stats": batch_stats}
            each.append(losses.contrastive(z_image, z_text, temperature).mean(axis=0))
        return (each[0] + each[1]) / 2, stats["batch_stats"]
