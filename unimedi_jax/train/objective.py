"""UniMedI's objective: one batch to one loss. Read `unimedi_loss` first, it is the method on one screen."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.metrics import Mean
from unimedi_jax.models import unimedi
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective:
    """Settings of the losses and of what the student sees: `config.objective`, word for word."""

    weight_vl: float = 1.0
    weight_icl: float = 1.0
    weight_pcl: float = 1.0
    temperature: float = 0.07
    identical_reports: bool = False  # treat word-for-word equal reports as positives of each other
    student_temperature: float = 0.1
    teacher_temperature_cls: tuple[float, float] = (0.04, 0.04)  # start and end of the warm-up
    teacher_temperature_patch: tuple[float, float] = (0.04, 0.07)
    temperature_warmup_steps: int = 0
    centre_momentum: float = 0.9
    centre_by_modality: bool = False  # X-rays and CTs each centred on their own mean, not on that of the mixed batch
    mask_ratio: float = 0.5  # share of tokens the student does not see
    mask_mode: str = "drop"  # "drop" removes tokens, "mask_token" replaces them and distils there (iBOT)
    mask_by: str = "attention"  # "attention" keeps the telling tokens, "random" any
    mask_scope: str = "sequence"  # "sequence", or "part": slices and volume keep their own share
    mask_block: int = 1  # 2 keeps 2x2 blocks of an X-ray's tokens (A-CLIP)
    slices_by: str = "attention"  # "attention" (eq. 2) or "random"
    random_until_step: int = 0  # both choices are random before: attention from scratch tells nothing yet

    def __post_init__(self) -> None:
        for name, allowed in {
            "mask_mode": ("drop", "mask_token"),
            "mask_by": ("attention", "random"),
            "mask_scope": ("sequence", "part"),
            "slices_by": ("attention", "random"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {allowed}, not {getattr(self, name)!r}")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is at least 0 and below 1, not {self.mask_ratio}")

    def temperatures(self, step: Int[Array, ""]) -> tuple[Array, Array]:
        """The teacher's temperatures for CLS and patches: linear from start to end, then constant."""
        done = jnp.minimum(step / max(self.temperature_warmup_steps, 1), 1.0)
        if not self.temperature_warmup_steps:
            done = jnp.ones(())
        pairs = self.teacher_temperature_cls, self.teacher_temperature_patch
        cls, patch = (start + (end - start) * done for start, end in pairs)
        return cls, patch

    def scores(self, by: str, attention: Array, draw: Array, step: Int[Array, ""]) -> Array:
        """Attention or a random draw, as `by` and `random_until_step` say. What is not used is never computed."""
        if by == "random":
            return draw
        if not self.random_until_step:
            return attention
        return jnp.where(step < self.random_until_step, draw, attention)


class Views(NamedTuple):
    """Student and teacher on the same samples, position for position."""

    student_cls: Float[Array, "b d"]
    teacher_cls: Float[Array, "b d"]
    student_patches: Float[Array, "b m d"]
    teacher_patches: Float[Array, "b m d"]


def unimedi_loss(
    params: Params,
    teacher: Params,
    stats: PyTree,
    batch: Batch,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
    """L = w_vl L_vl + w_icl L_icl + w_pcl L_pcl over a mixed batch of X-rays and CTs, either of which may be absent.

    Returns the loss, and beside it the metrics (means, per loss and per modality) and the new `stats`.
    """
    see = {"xray": xray_views, "ct": ct_views}
    # Every random draw has a key of its own, which does not depend on the modalities at hand.
    key_dropout, *keys = jax.random.split(key, 1 + len(see))
    views = {
        name: see[name](params, teacher, batch[name]["tokens"], k, step, model=model, objective=objective)
        for name, k in zip(see, keys, strict=True)
        if name in batch
    }
    parts, batch_stats = _contrast(
        params, stats["batch_stats"], batch, views, key_dropout, model=model, objective=objective
    )
    distilled, used, centres = _distil(params, teacher, stats, views, step, model=model, objective=objective)
    weights = {
        "vl": objective.weight_vl,
        "icl": objective.weight_icl,
        "pcl": objective.weight_pcl,
    }
    metrics, loss = {name: Mean.of(value) for name, value in used.items()}, jnp.zeros(())
    for name, by_modality in {**parts, **distilled}.items():
        means = {modality: Mean.of(values) for modality, values in by_modality.items()}
        metrics |= {f"{modality}/{name}": mean for modality, mean in means.items()}
        metrics[f"loss/{name}"] = total = sum(means.values(), start=Mean(0.0, 0.0))
        loss += weights[name] * total.value
    metrics["loss"] = Mean(loss, jnp.ones(()))
    return loss, (metrics, {"batch_stats": batch_stats, **centres})


def xray_views(
    params: Params,
    teacher: Params,
    tokens: Array,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> Views:
    """X-rays: the teacher sees everything and scores it, the student sees the best-scored tokens."""

    def embed(params: Params, hidden: Array | None = None) -> Array:
        return model.apply({"params": params}, tokens, hidden, method="embed_xray")

    def choose(scores: Array) -> Array:
        if objective.mask_block > 1:
            cells, block = model.vision.image_grid, objective.mask_block
            blocks = selection.kept(cells[0] * cells[1] // block**2, objective.mask_ratio)
            return selection.top_blocks(scores, cells, block, blocks)
        return selection.top(scores, selection.kept(scores.shape[1], objective.mask_ratio))

    return _views(params, teacher, embed, choose, key, step, model=model, objective=objective)


def ct_views(
    params: Params,
    teacher: Params,
    tokens: Array,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> Views:
    """CTs: the teacher picks slices from the volume, then [CLS, slices, volume] goes the way of an X-ray."""
    key, key_slices = jax.random.split(key)
    volume = model.apply({"params": teacher}, tokens, method="embed_volume")
    scores = model.apply({"params": teacher}, volume, True, method="encode").scores
    # One random draw per layer, spread over its tokens, so that eq. 2 returns just that draw.
    layers = model.volume_grid[0]
    draw = selection.random_scores(key_slices, jnp.zeros((len(tokens), layers)))
    draw = jnp.repeat(draw, volume.shape[1] // layers, axis=1)
    scores = objective.scores(objective.slices_by, scores, draw, step)
    _, layers = model.choose_layers(scores)

    def embed(params: Params, hidden: Array | None = None) -> Array:
        return model.apply({"params": params}, tokens, layers, hidden, method="embed_ct")

    def choose(scores: Array) -> Array:
        n, share = tokens.shape[1], objective.mask_ratio
        if objective.mask_scope == "sequence" or scores.shape[1] == n:
            return selection.top(scores, selection.kept(scores.shape[1], share))
        slices, volume = scores[:, :-n], scores[:, -n:]
        first = selection.top(slices, selection.kept(slices.shape[1], share))
        second = selection.top(volume, selection.kept(n, share)) + slices.shape[1]
        return jnp.concatenate([first, second], axis=1)

    return _views(params, teacher, embed, choose, key, step, model=model, objective=objective)


def _views(
    params: Params,
    teacher: Params,
    embed: Callable[..., Array],
    choose: Callable[[Array], Array],
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> Views:
    """Teacher on all tokens, student on the kept ones; patches paired where the patch loss looks."""
    seen = model.apply({"params": teacher}, embed(teacher), True, method="encode")
    seen = jax.lax.stop_gradient(seen)
    draw = selection.random_scores(key, seen.scores)
    scores = objective.scores(objective.mask_by, seen.scores, draw, step)
    keep = choose(scores)
    if objective.mask_mode == "drop":
        tokens, where = selection.gather(embed(params), keep), keep
    else:
        hidden = jnp.ones(scores.shape, bool).at[jnp.arange(len(keep))[:, None], keep].set(False)
        tokens = embed(params, hidden)
        where = selection.top(hidden.astype(jnp.float32), scores.shape[1] - keep.shape[1])
    student = model.apply({"params": params}, tokens, False, method="encode")
    patches = student.patches
    if objective.mask_mode == "mask_token":
        patches = selection.gather(patches, where)
    return Views(student.cls, seen.cls, patches, selection.gather(seen.patches, where))


def _contrast(
    params: Params,
    batch_stats: PyTree,
    batch: Batch,
    views: dict[str, Views],
    key: Key[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> tuple[dict[str, dict[str, Array]], PyTree]:
    """L_vl over all samples of the batch, CTs' and X-rays' reports being negatives of each other."""
    order = list(views)
    cls = {name: views[name].student_cls for name in order}
    text = jnp.concatenate([batch[name]["text"] for name in order])
    mask = jnp.concatenate([batch[name]["text_mask"] for name in order])
    (z_image, z_text), updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        cls, text, mask, True,
        method="join", rngs={"dropout": key}, mutable=["batch_stats"],
    )  # fmt: skip
    positives = losses.same_report(text, mask) if objective.identical_reports else None
    each = losses.contrastive(z_image, z_text, objective.temperature, positives).mean(axis=0)
    return {"vl": _split(each, views)}, updated.get("batch_stats", {})


def _distil(
    params: Params,
    teacher: Params,
    stats: PyTree,
    views: dict[str, Views],
    step: Int[Array, ""],
    *,
    model: unimedi.UniMedI,
    objective: Objective,
) -> tuple[dict[str, dict[str, Array]], dict[str, Array], PyTree]:
    """L_icl on CLS and L_pcl on patches, and the centres after this batch, one a modality.

    Beside each loss, per modality, how many prototypes the teacher spreads the batch over: near 1 it has collapsed.
    """
    temperature_cls, temperature_patch = objective.temperatures(step)
    parts, used, centres = {}, {}, {}
    for name, method, weight, temperature, pick in (
        ("icl", "prototypes_cls", objective.weight_icl, temperature_cls,
         lambda v: (v.student_cls, v.teacher_cls)),
        ("pcl", "prototypes_patch", objective.weight_pcl, temperature_patch,
         lambda v: (v.student_patches, v.teacher_patches)),
    ):  # fmt: skip
        centre_name = "centre_" + method.removeprefix("prototypes_")
        centres[centre_name] = centre = stats[centre_name]
        if not weight:
            continue
        parts[name], means = {}, {}
        for modality, view in views.items():
            student, target = pick(view)
            student = model.apply({"params": params}, student, method=method)
            target = jax.lax.stop_gradient(model.apply({"params": teacher}, target, method=method))
            loss = losses.self_distillation(
                student, target, centre[modality], objective.student_temperature, temperature
            )
            # Patches: mean within a sample first, so that a CT does not outweigh an X-ray by its length.
            parts[name][modality] = loss.reshape(len(loss), -1).mean(axis=1)
            used[f"{modality}/{name}_prototypes"] = losses.prototypes_used(target, centre[modality], temperature)
            means[modality] = target.reshape(len(target), -1, target.shape[-1]).mean(axis=1)
        if not objective.centre_by_modality:
            means = dict.fromkeys(centre, jnp.concatenate(list(means.values())))
        centres[centre_name] = centre | {
            modality: losses.update_centre(centre[modality], mean, objective.centre_momentum)
            for modality, mean in means.items()
        }
    return parts, used, centres


def _split(values: Float[Array, " b"], views: dict[str, Views]) -> dict[str, Array]:
    sizes = [len(view.student_cls) for view in views.values()]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return dict(zip(views, jnp.split(values, ends), strict=True))
