"""The training state: arrays only, so that it shards, saves and compares like any tree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import numpy as jnp

from unimedi_jax import lora, trainable
from unimedi_jax.models import towers
from unimedi_jax.objectives import Objective, base, unimedi
from unimedi_jax.typing import Array, Key, Params, PyTree

ADAPTERS = 2**31 - 1  # folded into a run's key for their start: no run has so many steps


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on, apart from its place in the data."""

    step: Array  # int32 scalar, the only truth about progress
    params: Params  # with adapters beside them where config.trainable asks for any
    teacher: Params  # moving average of the objective's parts of `params`; {} where it has no teacher
    opt_state: optax.OptState
    model_state: PyTree  # batch_stats of the projections, and the objective's own: centres of the distillation, say
    key: Key[Array, ""]  # constant for the run; a step uses fold_in(key, step)
    skipped: Array  # int32 scalar, steps left out because something was not finite
    skipped_in_a_row: Array  # int32 scalar, those of them since the last good step

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        """The fields by the names that checkpoints and sharding rules use, where `model_state` is "stats"."""
        names = {"model_state": "stats"}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [(jax.tree_util.GetAttrKey(names.get(name, name)), value) for name, value in values.items()], None

    @classmethod
    def tree_unflatten(cls, _: None, fields: tuple[Any, ...]) -> "TrainState":
        """The inverse."""
        return cls(*fields)


def init_variables(
    model: towers.UniMedI, key: Key[Array, ""], objective: Objective | None = None
) -> tuple[PyTree, Key[Array, ""]]:
    """What a run of this key starts from: the untrained variables, and the key its steps fold in.

    Without an objective they are what inference needs: the towers', and UniMedI's heads' where the model has them.
    """
    init_key, run_key = jax.random.split(key)
    if objective is None and model.head:
        objective = unimedi.Objective()
    if objective is None:
        return towers.init(model, init_key), run_key
    return base.init_variables(model, objective, init_key), run_key


def make_init(
    model: towers.UniMedI,
    tx: optax.GradientTransformation,
    objective: Objective,
    partition: trainable.Partition = trainable.EVERYTHING,
) -> Callable[[Key[Array, ""]], TrainState]:
    """A function from a key to the state before the first step; what `partition` freezes has no optimiser state."""

    def init(key: Key[Array, ""]) -> TrainState:
        variables, run_key = init_variables(model, key, objective)
        base = variables["params"]
        params = partition.with_adapters(base, jax.random.fold_in(run_key, ADAPTERS))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # Copied: donating the state must not hand the same buffer over twice.
            teacher=jax.tree.map(jnp.copy, {part: base[part] for part in objective.teacher_parts(model)}),
            opt_state=tx.init(partition.split(params)),
            model_state={"batch_stats": variables.get("batch_stats", {}), **objective.state(model)},
            key=run_key,
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )

    return init


def variables(state: TrainState, network: str = "student") -> PyTree:
    """What `model.apply` takes for inference with the student or with the teacher's visual side."""
    if network not in ("student", "teacher"):
        raise ValueError(f"network is student or teacher, not {network!r}")
    if network == "teacher" and not state.teacher:
        raise ValueError("this run has no teacher")
    params = lora.merge(state.params)
    params = params if network == "student" else {**params, **state.teacher}
    return {"params": params, "batch_stats": state.model_state["batch_stats"]}
