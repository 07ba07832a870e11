"""A batch through any objective, as a training step would take it; and Sinkhorn-Knopp by numpy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from unimedi_jax.models import towers, vision
from unimedi_jax.objectives import base


class Networks(NamedTuple):
    """What a step starts from."""

    params: dict
    teacher: dict
    model_state: dict


def networks(model: towers.UniMedI, objective, random_tree) -> Networks:
    """A random student, a teacher that disagrees with it, and the state at the start."""
    shapes = jax.eval_shape(lambda: base.init_variables(model, objective, jax.random.key(0)))
    params = random_tree(shapes["params"])
    teacher = random_tree({part: params[part] for part in objective.teacher_parts(model)}, around=0.8)
    norms = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes.get("batch_stats", {}))
    return Networks(params, teacher, {"batch_stats": norms, **objective.state(model)})


def loss(model: towers.UniMedI, objective):
    """The objective as a function of (params, teacher, model state, batch), always with the same key."""
    function = base.loss_function(model, objective)
    return lambda *arguments: function(*arguments, jax.random.key(3), jnp.int32(0))


def bound(model: towers.UniMedI, params, forward: Callable[[towers.UniMedI], Any], batch_stats=None, key: int = 3):
    """The result of `forward` on the model bound to these parameters, and to the random streams of a step."""

    def run(params, batch_stats):
        return base.apply(model, forward, params, batch_stats, jax.random.key(key))[0]

    return jax.jit(run)(params, batch_stats or {})


def gradients(model: towers.UniMedI, objective, start: Networks, batch) -> tuple:
    """Of one batch: the loss, metrics, new model state, the student's gradient.

    Checks what holds for each of them: all is finite, the state keeps its form, nothing reaches the teacher.
    """
    run = jax.jit(jax.value_and_grad(loss(model, objective), argnums=(0, 1), has_aux=True))
    (value, (metrics, state)), (student, teacher) = jax.device_get(run(*start, batch))
    assert value.shape == ()
    assert value.dtype == jnp.float32
    for leaf in jax.tree.leaves((value, metrics, state, student)):
        assert np.isfinite(leaf).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves(teacher)), "the teacher is detached"
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start.model_state)
    assert float(metrics["loss"].value) == float(value)
    return value, metrics, state, student


def reached(gradient) -> set[str]:
    """The parts of the parameters to which a gradient comes, those of the vision tower by name."""
    parts = {name: leaf for name, leaf in gradient.items() if name != "vision"}
    parts |= {f"vision/{name}": leaf for name, leaf in gradient["vision"].items()}
    return {name for name, part in parts.items() if any(leaf.any() for leaf in jax.tree.leaves(part))}


def alone(model: towers.UniMedI, objective, start: Networks, batch) -> dict[str, set[str]]:
    """Each modality by itself: finite, and the names of its metrics."""
    names = {}
    for modality in batch:
        value, (metrics, state) = jax.jit(loss(model, objective))(*start, {modality: batch[modality]})
        assert np.isfinite(value)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start.model_state)
        names[modality] = set(metrics)
    return names


def passes(model: towers.UniMedI, objective, start: Networks, batch) -> list[tuple[int, int]]:
    """Rows and lengths of all sequences that go through the ViT, shortest and fewest first."""
    shapes = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, vision.Trunk) and context.method_name == "__call__":
            shapes.append(args[0].shape[:2])
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(loss(model, objective), *start, batch)
    return sorted(shapes)


def assert_alone(model: towers.UniMedI, objective, start: Networks, batch, losses: tuple[str, ...]) -> None:
    """Each modality by itself gives finite losses, and these alone."""
    for modality, names in alone(model, objective, start, batch).items():
        assert names == {"loss", *(f"{part}/{name}" for part in (modality, "loss") for name in losses)}


def assert_weighted(objective, value, metrics, losses: tuple[str, ...]) -> None:
    """The loss is the sum of its parts by their weights."""
    total = sum(getattr(objective, f"weight_{name}") * metrics[f"loss/{name}"].value for name in losses)
    np.testing.assert_allclose(value, total, rtol=1e-5)


def sinkhorn(logits: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """SwAV's form: a (p, b) table whose rows are brought to 1 / p and columns to 1 / b."""
    table = np.exp(np.float64(logits) / epsilon).T
    table /= table.sum()
    for _ in range(iterations):
        table *= (1 / table.shape[0]) / table.sum(axis=1, keepdims=True)
        table *= (1 / table.shape[1]) / table.sum(axis=0, keepdims=True)
    return (table / table.sum(axis=0, keepdims=True)).T
