"""A batch through an objective of any system, for the tests of the systems that make views."""

from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from unimedi_jax.models import towers, vision


class Networks(NamedTuple):
    """What a step has before it."""

    params: dict
    teacher: dict
    stats: dict


def networks(model: towers.UniMedI, objective, random_tree) -> Networks:
    """A random student, a teacher that disagrees with it, and statistics as at the start."""
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    params = random_tree(shapes["params"])
    teacher = random_tree({part: params[part] for part in objective.teacher}, around=0.8)
    norms = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes.get("batch_stats", {}))
    return Networks(params, teacher, {"batch_stats": norms, **objective.stats(model)})


def loss(model: towers.UniMedI, objective):
    """The objective as a function of (params, teacher, stats, batch), always with the same key."""

    def run(params, teacher, stats, batch):
        return objective.loss(params, teacher, stats, batch, jax.random.key(3), jnp.int32(0), model=model)

    return run


def gradients(model: towers.UniMedI, objective, given: Networks, batch) -> tuple:
    """Of one mixed batch: the loss, metrics, new statistics, the student's gradient.

    Checks what holds for each of them: all is finite, the statistics keep their form, nothing reaches the teacher.
    """
    run = jax.jit(jax.value_and_grad(loss(model, objective), argnums=(0, 1), has_aux=True))
    (value, (metrics, stats)), (student, teacher) = jax.device_get(run(*given, batch))
    assert value.shape == ()
    assert value.dtype == jnp.float32
    for leaf in jax.tree.leaves((value, metrics, stats, student)):
        assert np.isfinite(leaf).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves(teacher)), "the teacher is detached"
    assert jax.tree.map(jnp.shape, stats) == jax.tree.map(jnp.shape, given.stats)
    assert float(metrics["loss"].value) == float(value)
    return value, metrics, stats, student


def reached(gradient) -> set[str]:
    """The parts of the parameters to which a gradient comes, those of the vision tower by name."""
    parts = {name: leaf for name, leaf in gradient.items() if name != "vision"}
    parts |= {f"vision/{name}": leaf for name, leaf in gradient["vision"].items()}
    return {name for name, part in parts.items() if any(leaf.any() for leaf in jax.tree.leaves(part))}


def alone(model: towers.UniMedI, objective, given: Networks, batch) -> dict[str, set[str]]:
    """Each modality by itself: finite, and the names of its metrics."""
    found = {}
    for name in batch:
        value, (metrics, stats) = jax.jit(loss(model, objective))(*given, {name: batch[name]})
        assert np.isfinite(value)
        assert jax.tree.map(jnp.shape, stats) == jax.tree.map(jnp.shape, given.stats)
        found[name] = set(metrics)
    return found


def passes(model: towers.UniMedI, objective, given: Networks, batch) -> list[tuple[int, int]]:
    """Rows and lengths of all sequences that go through the ViT, shortest and fewest first."""
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, vision.Trunk) and context.method_name == "__call__":
            seen.append(args[0].shape[:2])
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(loss(model, objective), *given, batch)
    return sorted(seen)
