"""Gradients of a batch that does not fit: part by part, with all of its negatives (GradCache, arXiv 2101.06983).

L_vl compares every sample with every other, but only their CLS and their reports' vectors: a pass without gradients
collects these, the gradient of the loss with respect to them follows, and a second pass carries it back into the
networks. The teacher runs once, the student forward twice.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from unimedi_jax import lora, losses
from unimedi_jax.mean import Mean
from unimedi_jax.models import towers
from unimedi_jax.objectives import alignment, base, common, distillation, unimedi
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree


def value_and_grad(
    model: towers.UniMedI, objective: unimedi.Objective, parts: int, whole: Callable[[Params], Params] = lora.merge
) -> base.LossFunction:
    """`jax.value_and_grad(loss_function(model, objective), has_aux=True)`, the activations of one part at a time.

    `whole` makes the networks' parameters of those that the gradients are with respect to.

    The `parts` of a batch are of equal size. Values and gradients are those of the whole batch up to rounding, but for
    random draws (dropout, random masks), whose keys are each part's own. Held for the whole batch: the teacher's
    outputs, CLS and the reports' vectors.
    """

    def run(
        params: Params, teacher: Params, model_state: PyTree, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], tuple[Metrics, PyTree]], Params]:
        norms = model_state["batch_stats"]
        divided = jax.tree.map(lambda x: losses.split(x, parts), batch)
        key, of_contrast = jax.random.split(key)
        keys = jax.random.split(key, parts)
        again = jax.random.clone(keys)  # the same dropout in both passes, on purpose

        def collect(_: None, part: Any) -> tuple[None, Any]:
            batch, key = part

            def forward(student: towers.UniMedI) -> Any:
                bound = base.bind_teacher(model, teacher)
                draws, baseline = student.make_rng("draws"), student.slice_baseline
                targets = objective.teacher_forward(bound, batch, draws, step, baseline)
                return targets, _vectors(*objective.student_forward(student, batch, targets), batch)

            return None, base.apply(model, forward, whole(params), norms, key)[0]

        _, (targets, vectors) = jax.lax.scan(collect, None, (divided, keys))

        def contrast(params: Params, vectors: PyTree) -> tuple[Array, Any]:
            outputs, reports = jax.tree.map(losses.merge, vectors)
            reports = jax.tree.map(lambda *x: jnp.concatenate(x), *(reports[name] for name in common.modalities(batch)))

            def forward(student: towers.UniMedI) -> base.Losses:
                if "ct" in targets:
                    unimedi.follow_slices(student, jax.tree.map(losses.merge, targets["ct"].slice_scores))
                return objective.batch_losses(student, batch, outputs, reports)

            terms, batch_stats = base.apply(model, forward, whole(params), norms, of_contrast)
            return base.total(terms, objective, step)[0], (terms, batch_stats)

        # The gradient with respect to the vectors is what the second pass carries back.
        (_, (contrasted, batch_stats)), (grads, pulls) = jax.value_and_grad(contrast, (0, 1), has_aux=True)(
            params, vectors
        )

        def carry_back(grads: Params, part: Any) -> tuple[Params, Any]:
            batch, key, targets, pulls = part

            def forward(student: towers.UniMedI) -> Any:
                outputs, reports = objective.student_forward(student, batch, targets)
                bound = base.bind_teacher(model, teacher)
                distilled = objective.distillation_losses(student, bound, outputs, targets, model_state, step)
                return *distilled, _vectors(outputs, reports, batch)

            def local(params: Params) -> tuple[Array, Any]:
                terms, stats, vectors = base.apply(model, forward, whole(params), norms, key)[0]
                # Parts are of equal size: the mean over the batch is the mean of theirs.
                loss = base.total(terms, objective, step)[0] / parts
                return loss + sum(jax.tree.leaves(jax.tree.map(_dot, pulls, vectors))), (terms, stats)

            more, aside = jax.grad(local, has_aux=True)(params)
            return jax.tree.map(jnp.add, grads, more), aside

        grads, (distilled, stats) = jax.lax.scan(carry_back, grads, (divided, again, targets, pulls))
        loss, metrics = base.total({**contrasted, **distilled}, objective, step)
        stats = jax.tree.map(lambda x: x.sum(axis=0), stats)  # sums and weights of the parts' means
        metrics |= {"loss": Mean.of(loss), **distillation.target_information(stats)}
        return (loss, (metrics, {"batch_stats": batch_stats, **objective.update_centres(model_state, stats)})), grads

    return run


def _vectors(outputs: unimedi.StudentOutputs, reports: alignment.Reports, batch: Batch) -> tuple[dict, dict]:
    """Images and reports by modality: what losses over the batch compare, L_vl first of all."""
    images = {name: output._replace(patches=None) for name, output in outputs.items()}
    return images, alignment.by_group(reports, batch, within_modality=True)


def _dot(gradient: Array, vector: Array) -> Float[Array, ""]:
    return jnp.sum(gradient.astype(jnp.float32) * vector.astype(jnp.float32))
