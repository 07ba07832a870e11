"""AdamW with a path-matched decay mask, and the schedules of learning rate and teacher momentum."""

import re
from collections.abc import Callable

import jax
import optax
from jax import numpy as jnp

from unimedi_jax import trees
from unimedi_jax.config.pretraining import OptimConfig
from unimedi_jax.typing import Array, Float, PyTree

Schedule = Callable[[Array], Array]


def make(config: OptimConfig, steps: int) -> tuple[optax.GradientTransformation, Schedule]:
    """AdamW after clipping by the global norm (0 = no clipping), and its learning-rate schedule.

    Linear warm-up from `start_lr` to `peak_lr`, then half a cosine to `end_lr` at `steps`. Weight decay reaches the
    parameters whose path matches `decay`; MGCA decays all of them, `decay=".*"`.
    """
    warmup, length = config.warmup_steps, max(steps, config.warmup_steps + 1)
    schedule = optax.warmup_cosine_decay_schedule(config.start_lr, config.peak_lr, warmup, length, config.end_lr)

    def decayed(params: PyTree) -> PyTree:
        return trees.map_with_name(lambda name, _: bool(re.search(config.decay, name)), params)

    moments = {"b1": config.b1, "b2": config.b2, "mu_dtype": config.moment_dtype}
    adamw = optax.adamw(schedule, **moments, weight_decay=config.weight_decay, mask=decayed)
    if not config.clip_norm:
        return adamw, schedule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw), schedule


def ema_schedule(*, base: float, final: float, steps: int) -> Schedule:
    """Half a cosine from `base` at step 0 to `final` at step `steps` (DINO, BYOL)."""

    def momentum(step: Array) -> Float[Array, ""]:
        done = jnp.minimum(step / steps, 1.0)
        return final + 0.5 * (base - final) * (1 + jnp.cos(jnp.pi * done))

    return momentum


def average(teacher: PyTree, student: PyTree, momentum: Float[Array, ""]) -> PyTree:
    """momentum * teacher + (1 - momentum) * student, leaf by leaf."""
    return jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)
