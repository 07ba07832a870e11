"""UniMedI's objective: one batch to one loss. Read `unimedi_loss` first, it is the method on one screen."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.mean import Mean
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, views
from unimedi_jax.objectives.settings import Settings
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree

CENTRES = {"icl": "centre_cls", "pcl": "centre_patch"}  # of each loss, in the state's stats
Taught = dict[str, views.Taught]  # by modality
Seen = dict[str, views.Seen]


class Spread(NamedTuple):
    """The teacher over the samples of a batch, as means that can still be merged."""

    logits: Mean  # (p,) what its centre follows
    assigned: Mean  # (p,) the share of each prototype in its targets


Told = dict[str, dict[str, Spread]]  # loss -> modality


@dataclasses.dataclass(frozen=True)
class Objective(Settings, base.Objective):
    """UniMedI (arXiv 2311.14851): L_vl, L_icl and L_pcl; docs/method.md says item by item what is the paper's word."""

    teacher: ClassVar[tuple[str, ...]] = ("vision", "head_cls", "head_patch")  # the visual side; reports have none

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """DINO's prototypes for CLS and for patches.

        Raises:
            ValueError: mask tokens are to be compared where none stands, or blocks do not divide a film.
        """
        selection.check_blocks(model.vision.image_grid, self.mask_block)
        tokens = min(math.prod(model.vision.image_grid), math.prod(model.volume_grid))
        if self.mask_mode == "mask_token" and selection.kept(tokens, self.mask_ratio) == tokens:
            raise ValueError(f"mask_ratio={self.mask_ratio} hides none of {tokens} tokens, which mask_token compares")
        size, dtype = model.head_sizes, model.vision.dtype
        return {
            "cls": heads.DinoHead(size.prototypes_cls, size.hidden, size.bottleneck, dtype),
            "patch": heads.DinoHead(size.prototypes_patch, size.hidden, size.bottleneck, dtype),
        }

    def stats(self, model: towers.UniMedI) -> PyTree:
        """The centres, one a modality; they stay equal unless `centre_by_modality`."""
        size = model.head_sizes
        both = ("xray", "ct")
        return {
            "centre_cls": {modality: jnp.zeros(size.prototypes_cls) for modality in both},
            "centre_patch": {modality: jnp.zeros(size.prototypes_patch) for modality in both},
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
        """The loss of a batch, and beside it the metrics and the new `stats`."""
        return unimedi_loss(params, teacher, stats, batch, key, step, model=model, objective=self)


def unimedi_loss(
    params: Params,
    teacher: Params,
    stats: PyTree,
    batch: Batch,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> base.Loss:
    """L = w_vl L_vl + w_icl L_icl + w_pcl L_pcl over a mixed batch of X-rays and CTs, either of which may be absent.

    Returns the loss, and beside it the metrics (means, per loss and per modality) and the new `stats`.
    """
    keys = draws(key)
    taught = teach(teacher, batch, keys, step, model=model, objective=objective)
    seen, reports = see(params, batch, taught, keys["dropout"], model=model, objective=objective)
    cls = {name: view.cls for name, view in seen.items()}
    contrasted, batch_stats = contrast(params, stats, batch, cls, reports, model=model, objective=objective)
    distilled, told = distil(params, teacher, stats, taught, seen, step, model=model, objective=objective)
    loss, metrics = total({**contrasted, **distilled}, objective)
    metrics |= {"loss": Mean(loss, jnp.ones(())), **prototypes_used(told)}
    return loss, (metrics, {"batch_stats": batch_stats, **centres(stats, told, objective)})


def draws(key: Key[Array, ""]) -> dict[str, Key[Array, ""]]:
    """Every random draw has a key of its own, which does not depend on the modalities at hand."""
    return common.keys(key, "dropout", "xray", "ct")


def teach(
    teacher: Params,
    batch: Batch,
    keys: dict[str, Key[Array, ""]],
    step: Int[Array, ""],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> Taught:
    """The teacher on every modality at hand."""
    return {
        name: views.teach(name, teacher, batch[name]["tokens"], keys[name], step, model=model, objective=objective)
        for name in common.modalities(batch)
    }


def see(
    params: Params, batch: Batch, taught: Taught, key: Key[Array, ""], *, model: towers.UniMedI, objective: Settings
) -> tuple[Seen, Float[Array, "b d"]]:
    """The student on what the teacher leaves it, and the report tower on the reports, modality after modality."""
    seen = {
        name: views.see(name, params, batch[name]["tokens"], view, model=model, objective=objective)
        for name, view in taught.items()
    }
    return seen, common.read(params, batch, key, model=model).vector


def contrast(
    params: Params,
    stats: PyTree,
    batch: Batch,
    cls: dict[str, Float[Array, "_ d"]],
    reports: Float[Array, "b d"],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> tuple[common.Parts, PyTree]:
    """L_vl over all samples of the batch, CTs' and X-rays' reports being negatives of each other.

    Returns it with the running statistics of the projections.
    """
    z_image, z_text, batch_stats = common.project(params, stats, cls, reports, model=model)
    chunk = objective.contrastive_chunk
    report = losses.same_report(*common.reports(batch), chunk) if objective.identical_reports else None
    each = losses.contrastive(z_image, z_text, objective.temperature, report, chunk).mean(axis=0)
    return {"vl": common.by_modality(each, batch)}, batch_stats


def distil(
    params: Params,
    teacher: Params,
    stats: PyTree,
    taught: Taught,
    seen: Seen,
    step: Int[Array, ""],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> tuple[common.Parts, Told]:
    """L_icl on CLS and L_pcl on patches, and how the teacher's targets are spread over the prototypes."""
    temperature_cls, temperature_patch = objective.temperatures(step)
    parts, told = {}, {}
    for name, head, weight, temperature, pick in (
        ("icl", "cls", objective.weight_icl, temperature_cls, lambda view: view.cls),
        ("pcl", "patch", objective.weight_pcl, temperature_patch, lambda view: view.patches),
    ):
        if not weight:
            continue
        parts[name], told[name] = {}, {}
        for modality in seen:
            centre = stats[CENTRES[name]][modality]
            student = common.through(head, params, pick(seen[modality]), model=model)
            target = common.through(head, teacher, pick(taught[modality]), model=model)
            loss = losses.self_distillation(student, target, centre, objective.student_temperature, temperature)
            # Patches: mean within a sample first, so that a CT does not outweigh an X-ray by its length.
            parts[name][modality] = loss.reshape(len(loss), -1).mean(axis=1)
            assigned = losses.assignments(target, centre, temperature)
            told[name][modality] = Spread(_over_samples(target), _over_samples(assigned))
    return parts, told


def _over_samples(values: Float[Array, "b *m p"]) -> Mean:
    each = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
    return Mean(each.sum(axis=0), jnp.float32(len(values)))


def centres(stats: PyTree, told: Told, objective: Settings) -> dict[str, dict[str, Array]]:
    """The centres after this batch, one a modality; those of a loss without weight stay as they are.

    They stay equal, each following the whole batch, unless `centre_by_modality`.
    """
    after = {}
    for name, kind in CENTRES.items():
        means = {modality: spread.logits for modality, spread in told.get(name, {}).items()}
        if means and not objective.centre_by_modality:
            means = dict.fromkeys(stats[kind], sum(means.values(), start=Mean(0.0, 0.0)))
        after[kind] = stats[kind] | {
            modality: losses.update_centre(stats[kind][modality], mean.value[None], objective.centre_momentum)
            for modality, mean in means.items()
        }
    return after


def prototypes_used(told: Told) -> Metrics:
    """How many prototypes the teacher spreads the batch over, by loss and modality: near 1 it has collapsed."""
    return {
        f"{modality}/{name}_prototypes": Mean.of(losses.perplexity(spread.assigned.value))
        for name, by_modality in told.items()
        for modality, spread in by_modality.items()
    }


def total(parts: common.Parts, objective: Settings) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses, each a mean over all samples, and the means by loss and modality."""
    return common.total(parts, {name: getattr(objective, f"weight_{name}") for name in parts})
