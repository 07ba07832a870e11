"""One training step: loss, gradients, optimiser, moving averages. Pure; jitted in the loop."""

from collections.abc import Callable

import jax
import optax
from jax import numpy as jnp

from unimedi_jax import lora, optim, trainable, trees
from unimedi_jax.mean import Mean
from unimedi_jax.models import towers
from unimedi_jax.objectives import Objective, base
from unimedi_jax.train import gradcache
from unimedi_jax.train.state import TrainState
from unimedi_jax.typing import Array, Batch, Metrics, Params


def by_stage(
    model: towers.UniMedI, objective: Objective, parts: int, whole: Callable[[Params], Params] = lora.merge
) -> base.LossFunction:
    """Loss and gradients by the stage that a step belongs to, of a batch in so many parts.

    `whole` makes the networks' parameters of those that the gradients are with respect to.

    All stages are in one program, of which a step runs the branch of its own: shapes may differ between them.
    """

    def of(stage: Objective) -> base.LossFunction:
        if parts > 1:
            return gradcache.value_and_grad(model, stage, parts, whole)
        loss = base.loss_function(model, stage)
        return jax.value_and_grad(lambda params, *rest: loss(whole(params), *rest), has_aux=True)

    functions = [of(stage) for stage in objective.stages()]
    if len(functions) == 1:
        return functions[0]
    return lambda *arguments: jax.lax.switch(objective.stage(arguments[-1]), functions, *arguments)


def make_train_step(
    model: towers.UniMedI,
    tx: optax.GradientTransformation,
    *,
    objective: Objective,
    schedule: Callable[[Array], Array],
    ema: Callable[[Array], Array],
    accumulate: int = 1,
    freeze_last_layer_steps: int = 0,
    partition: trainable.Partition = trainable.EVERYTHING,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; `schedule` and `ema` map a step to learning rate and momentum.

    The batch passes in `accumulate` parts (UniMedI's objective alone); all samples are negatives of each other all the
    same. The teacher follows after the optimiser: teacher = m teacher + (1 - m) student. `freeze_last_layer_steps`
    freezes the prototypes at the start (DINO). Gradients, and `norm/grads`, are those of what trains by `partition`.

    Where the loss, the gradients, the learning rate or the objective's new state is not finite, the state stays as it
    is, bit for bit: only `step` and the counts of skipped steps move. The optimiser counts the steps it took,
    `step - skipped`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        trained = partition.split(state.params)
        value_and_grad = by_stage(model, objective, accumulate, lambda x: lora.merge(partition.join(state.params, x)))
        (loss, (metrics, model_state)), grads = value_and_grad(
            trained, state.teacher, state.model_state, batch, key, state.step
        )
        with jax.named_scope("update"):
            unfrozen = (state.step >= freeze_last_layer_steps).astype(jnp.float32)

            def freeze(name: str, x: Array) -> Array:
                return x * unfrozen if name.endswith("last_layer") else x

            # Gradients, so that no moments gather; updates, because decoupled weight decay needs no gradient.
            grads = trees.map_with_name(freeze, grads)
            updates, opt_state = tx.update(grads, state.opt_state, trained)
            params = partition.join(state.params, optax.apply_updates(trained, trees.map_with_name(freeze, updates)))
            momentum = ema(state.step)
            student = lora.merge(params)
            teacher = optim.average(state.teacher, {k: student[k] for k in state.teacher}, momentum)
            norms = {"norm/grads": optax.tree.norm(grads), "norm/params": optax.tree.norm(params)}
            lr = schedule(state.step - state.skipped)
            # None of these waits for the new weights, so that one pass over the weights makes and chooses them. AdamW
            # moves each weight by about the learning rate, whose square stands for what the weights' norm becomes.
            checked = [loss, norms["norm/grads"], optax.tree.norm(model_state), lr**2]
            finite = jnp.isfinite(jnp.stack(checked)).all()
            params, teacher, opt_state, model_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, teacher, opt_state, model_state),
                (state.params, state.teacher, state.opt_state, state.model_state),
            )
        skipped = state.skipped + ~finite
        in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        scalars = norms | {"lr": lr, "ema": momentum, "skipped": skipped, "skipped/in_a_row": in_a_row}
        metrics |= {name: Mean.of(value) for name, value in scalars.items()}
        after = TrainState(state.step + 1, params, teacher, opt_state, model_state, state.key, skipped, in_a_row)
        return after, metrics

    return step
