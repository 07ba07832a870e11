"""Gradients of a batch that does not fit: part by part, with all of its negatives (GradCache, arXiv 2101.06983).

L_vl needs every sample beside every other, but only their CLS and their reports' vectors: a pass without gradients
collects these, the loss says which way each should move, and a second pass carries that back into the networks. The
teacher runs once, the student forward twice.
"""

from typing import Any

import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.mean import Mean
from unimedi_jax.models import towers
from unimedi_jax.objectives import Objective, common
from unimedi_jax.objectives import unimedi as objectives
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree


def loss_and_grads(
    params: Params,
    teacher: Params,
    stats: PyTree,
    batch: Batch,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    parts: int,
    model: towers.UniMedI,
    objective: Objective,
) -> tuple[tuple[Float[Array, ""], tuple[Metrics, PyTree]], Params]:
    """`jax.value_and_grad(objective.loss, has_aux=True)` with the activations of one of `parts` equal parts at a time.

    One part is the plain gradient. More, which UniMedI's objective alone allows, give the same values and gradients up
    to rounding, but for random draws (dropout, random masks), whose keys are each part's own. Kept for the whole batch:
    what the teacher says of it, CLS and the reports' vectors.
    """
    if parts == 1:
        return jax.value_and_grad(objective.loss, has_aux=True)(params, teacher, stats, batch, key, step, model=model)
    settings = {"model": model, "objective": objective}
    divided = jax.tree.map(lambda x: losses.split(x, parts), batch)
    keys = jax.vmap(objectives.draws)(jax.random.split(key, parts))
    again = jax.random.clone(keys["dropout"])  # the same dropout in both passes, on purpose

    def collect(_: None, part: Any) -> tuple[None, Any]:
        batch, keys = part
        taught = objectives.teach(teacher, batch, keys, step, **settings)
        return None, (taught, _joined(*objectives.see(params, batch, taught, keys["dropout"], **settings), batch))

    _, (taught, joined) = jax.lax.scan(collect, None, (divided, keys))

    def contrast(params: Params, joined: PyTree) -> tuple[Array, Any]:
        cls, reports = jax.tree.map(losses.merge, joined)
        reports = jnp.concatenate([reports[name] for name in common.modalities(batch)])
        contrasted, batch_stats = objectives.contrast(params, stats, batch, cls, reports, **settings)
        return objectives.total(contrasted, objective)[0], (contrasted, batch_stats)

    # The gradient with respect to the vectors is what the second pass takes back.
    (_, (contrasted, batch_stats)), (grads, ways) = jax.value_and_grad(contrast, (0, 1), has_aux=True)(params, joined)

    def carry_back(grads: Params, part: Any) -> tuple[Params, Any]:
        batch, key, taught, ways = part

        def local(params: Params) -> tuple[Array, Any]:
            seen, reports = objectives.see(params, batch, taught, key, **settings)
            distilled, told = objectives.distil(params, teacher, stats, taught, seen, step, **settings)
            # Parts are of equal size: the mean over the batch is the mean of theirs.
            loss = objectives.total(distilled, objective)[0] / parts
            moved = jax.tree.map(_dot, ways, _joined(seen, reports, batch))
            return loss + sum(jax.tree.leaves(moved)), (distilled, told)

        more, aside = jax.grad(local, has_aux=True)(params)
        return jax.tree.map(jnp.add, grads, more), aside

    grads, (distilled, told) = jax.lax.scan(carry_back, grads, (divided, again, taught, ways))
    loss, metrics = objectives.total({**contrasted, **distilled}, objective)
    told = jax.tree.map(lambda x: x.sum(axis=0), told)  # sums and weights of the parts' means
    metrics |= {"loss": Mean(loss, jnp.ones(())), **objectives.prototypes_used(told)}
    stats = {"batch_stats": batch_stats, **objectives.centres(stats, told, objective)}
    return (loss, (metrics, stats)), grads


def _joined(seen: objectives.Seen, reports: Float[Array, "b d"], batch: Batch) -> tuple[dict, dict]:
    """CLS and the reports' vectors by modality: what L_vl looks at."""
    return {name: view.cls for name, view in seen.items()}, common.by_modality(reports, batch)


def _dot(way: Array, vector: Array) -> Float[Array, ""]:
    return jnp.sum(way.astype(jnp.float32) * vector.astype(jnp.float32))
