"""DINO: a student's small and large views of an image against its teacher's large ones.

Caron et al., "Emerging properties in self-supervised vision transformers" (arXiv 2104.14294): eq. 1 to 4, the head of
appendix C, multi-crop, centring and sharpening, the EMA teacher on backbone and head. Reports are not read.

Otherwise than there: both modalities are in a batch, a CT as its volume's tokens, with views cut in three dimensions.
Each modality has a centre of its own, as the mean of a mixed batch would let all CTs share one prototype. Views are
never mirrored and not blurred (`crops`). Two small views by default, where the paper has up to ten. The teacher's
temperature stays at 0.04, as by default in the authors' code; the paper warms it up to 0.07. There is no stochastic
depth, and the weight decay is constant. Its teacher is what is evaluated, as in the paper. Two views of one size are
one pass: student and teacher on the large ones, student on the small ones.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.mean import Mean
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Params, PyTree


def across_views(
    student: Float[Array, "b c p"],
    teacher: Float[Array, "b g p"],
    centre: Float[Array, " p"],
    student_temperature: float,
    teacher_temperature: Float[Array, ""] | float,
) -> Float[Array, " b"]:
    """Eq. 3 for each sample: the teacher's views against all of the student's but the same one, the mean of the pairs.

    The first g of the student's c views are the teacher's.
    """
    pairs = [(seen, taught) for taught in range(teacher.shape[1]) for seen in range(student.shape[1]) if seen != taught]
    each = [
        losses.self_distillation(student[:, seen], teacher[:, taught], centre, student_temperature, teacher_temperature)
        for seen, taught in pairs
    ]
    return jnp.mean(jnp.stack(each), axis=0)


@dataclasses.dataclass(frozen=True)
class Settings(crops.Settings, base.Objective):
    """Settings of views and of self-distillation, which UniMiSS shares."""

    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)  # start and end of the warm-up
    temperature_warmup_steps: int = 0
    centre_momentum: float = 0.9

    teacher: ClassVar[tuple[str, ...]] = ("vision", "head_cls")
    reads: ClassVar[bool] = False
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise ValueError("student_temperature and teacher_temperature are above 0")
        if not 0 <= self.centre_momentum < 1:
            raise ValueError(f"centre_momentum is at least 0 and below 1, not {self.centre_momentum}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """DINO's prototypes for CLS."""
        size = model.head_sizes
        return {"cls": heads.DinoHead(size.prototypes_cls, size.hidden, size.bottleneck, model.vision.dtype)}

    def stats(self, model: towers.UniMedI) -> PyTree:
        """The centres, one a modality."""
        return {"centre": {name: jnp.zeros(model.head_sizes.prototypes_cls) for name in ("xray", "ct")}}

    def temperature(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The teacher's: linear from start to end, then constant."""
        return losses.warmed(self.teacher_temperature, self.temperature_warmup_steps, step)

    def distil(
        self,
        student: Float[Array, "b c p"],
        teacher: Float[Array, "b g p"],
        centre: Float[Array, " p"],
        step: Int[Array, ""],
    ) -> Float[Array, " b"]:
        """`across_views` at these temperatures."""
        return across_views(student, teacher, centre, self.student_temperature, self.temperature(step))

    def follow(self, centre: Float[Array, " p"], teacher: Float[Array, "b g p"]) -> Float[Array, " p"]:
        """The centre after this batch (eq. 4)."""
        return losses.update_centre(centre, teacher, self.centre_momentum)

    def prototypes_used(self, teacher: Float[Array, "b g p"], centre: Float[Array, " p"], step: Int[Array, ""]) -> Mean:
        """How many prototypes the targets are spread over: near 1 the teacher has collapsed."""
        assigned = losses.assignments(teacher, centre, self.temperature(step))
        return Mean.of(losses.perplexity(jnp.mean(assigned, axis=(0, 1))))


@dataclasses.dataclass(frozen=True)
class Objective(Settings):
    """The loss of eq. 3 on both modalities."""

    local_crops: int = 2  # small views of a sample, beside the two large ones
    local_scale: tuple[float, float] = (0.05, 0.4)  # what they cover
    local_size: float = 3 / 7  # their sides, as a share of the whole, in whole patches: 96 of 224 pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        crops.shares("local_scale", self.local_scale)
        if not 0 < self.local_size <= 1 or self.local_crops < 0:
            raise ValueError(f"local_size is above 0 and at most 1, local_crops at least 0, not {self}")

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
        """Every sample's views against its large ones."""
        keys = common.keys(key, "xray", "ct")
        each, used, centres = {}, {}, dict(stats["centre"])
        for name in common.modalities(batch):
            large, small = self.views(name, batch[name]["tokens"], keys[name], model=model)
            taught = logits(teacher, large, model=model)
            seen = logits(params, large, small, model=model)
            each[name] = self.distil(seen, taught, stats["centre"][name], step)
            used[f"{name}/dino_prototypes"] = self.prototypes_used(taught, stats["centre"][name], step)
            centres[name] = self.follow(stats["centre"][name], taught)
        stats = {"batch_stats": stats["batch_stats"], "centre": centres}
        loss, (metrics, stats) = common.with_total({"dino": each}, {"dino": 1.0}, stats)
        return loss, (metrics | used, stats)

    def views(
        self, name: str, tokens: Array, key: Key[Array, ""], *, model: towers.UniMedI
    ) -> tuple[Float[Array, "b g *space"], Float[Array, "b l *small"]]:
        """The large views of each sample, and the small ones."""
        keys = common.keys(key, "large", "small")
        x = crops.whole(name, tokens, model=model)
        large = crops.crop(keys["large"], x, 2, x.shape[1:], self.crop_scale, self)
        size = crops.size_of(name, self.local_size, model=model)
        small = crops.crop(keys["small"], x, self.local_crops, size, self.local_scale, self)
        return large.images, small.images


def logits(params: Params, *views: Float[Array, "b c *space"], model: towers.UniMedI) -> Float[Array, "b c p"]:
    """Logits of the prototypes for all views, one pass for each size of them."""
    cls = [crops.see(params, images, model=model) for images in views if images.shape[1]]
    return common.through("cls", params, jnp.concatenate(cls, axis=1), model=model)
