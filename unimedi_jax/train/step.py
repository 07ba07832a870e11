"""One training step: loss, gradients, optimiser, moving averages. Pure; jitted in the loop."""

from collections.abc import Callable

import jax
import optax
from jax import numpy as jnp

from unimedi_jax import optim, trees
from unimedi_jax.mean import Mean
from unimedi_jax.models import towers
from unimedi_jax.objectives import Objective
from unimedi_jax.train import gradcache
from unimedi_jax.train.state import TrainState
from unimedi_jax.typing import Array, Batch, Metrics


def make_train_step(
    model: towers.UniMedI,
    tx: optax.GradientTransformation,
    *,
    objective: Objective,
    schedule: Callable[[Array], Array],
    ema: Callable[[Array], Array],
    accumulate: int = 1,
    freeze_last_layer_steps: int = 0,
    freeze_patch_embed: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; `schedule` and `ema` map a step to learning rate and momentum.

    The batch passes in `accumulate` parts, all samples being negatives of each other all the same. The teacher follows
    after the optimiser: teacher = m teacher + (1 - m) student. `freeze_last_layer_steps` keeps the
    prototypes still at the start (DINO), `freeze_patch_embed` keeps both tokenizers' projections (A-CLIP).

    Where the loss, the gradients or what they would lead to is not finite, the state stays as it is, bit for bit: only
    `step` and the counts of skipped steps move. The optimiser counts the steps it took, `step - skipped`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, (metrics, stats)), grads = gradcache.loss_and_grads(
            state.params,
            state.teacher,
            state.stats,
            batch,
            key,
            state.step,
            parts=accumulate,
            model=model,
            objective=objective,
        )
        moving = (state.step >= freeze_last_layer_steps).astype(jnp.float32)

        def hold(name: str, x: Array) -> Array:
            if name.endswith("last_layer"):
                return x * moving
            return jnp.zeros_like(x) if freeze_patch_embed and "/patch_" in name else x

        # Gradients, so that no moments gather; updates, because decoupled weight decay needs no gradient.
        grads = trees.map_with_name(hold, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, trees.map_with_name(hold, updates))
        momentum = ema(state.step)
        teacher = optim.average(state.teacher, {k: params[k] for k in state.teacher}, momentum)
        norms = {"norm/grads": optax.tree.norm(grads), "norm/params": optax.tree.norm(params)}
        good = jnp.isfinite(jnp.stack([loss, *norms.values(), optax.tree.norm((teacher, stats))])).all()
        params, teacher, opt_state, stats = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, teacher, opt_state, stats),
            (state.params, state.teacher, state.opt_state, state.stats),
        )
        skipped = state.skipped + ~good
        in_a_row = jnp.where(good, 0, state.skipped_in_a_row + 1)
        scalars = norms | {
            "lr": schedule(state.step - state.skipped),
            "ema": momentum,
            "skipped": skipped,
            "skipped/in_a_row": in_a_row,
        }
        metrics |= {name: Mean.of(value) for name, value in scalars.items()}
        after = TrainState(state.step + 1, params, teacher, opt_state, stats, state.key, skipped, in_a_row)
        return after, metrics

    return step
