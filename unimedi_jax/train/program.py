"""From the configuration to what runs on the devices: model, objective, state, step. It knows no data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from data.errors import UserError
from unimedi_jax import flops, objectives, optim, sharding
from unimedi_jax.models import attention, towers
from unimedi_jax.train import state, step
from unimedi_jax.typing import PyTree

COMPILER_OPTIONS = {
    # The part of a TPU's VMEM that one fusion may use: with the 16 MiB of the default the step does not compile for
    # v5e, where a gradient's all-reduce runs inside the loss over the prototypes.
    "tpu": {"xla_tpu_scoped_vmem_limit_kib": 32768},
    # No sums in the order in which threads come by: a step moves 1.5 % more bytes, and gives the same again.
    "gpu": {"xla_gpu_exclude_nondeterministic_ops": True},
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A step and what it is made of, for a mesh."""

    model: towers.UniMedI
    objective: objectives.Objective
    init: Callable[[jax.Array], state.TrainState]  # jitted, onto the mesh
    abstract: PyTree  # ShapeDtypeStructs with shardings
    step: Callable[..., Any]  # jitted


def make(config: ml_collections.ConfigDict, *, vocab_size: int, mesh: Mesh) -> Program:
    """The model and what is compiled of it for a mesh, whose devices need not be there.

    Raises:
        UserError: a setting of the model, the objective or the sharding is wrong.
    """
    settings = {**_fitted(config.model, mesh.devices.flat[0]), "vocab_size": vocab_size}
    try:
        model = towers.make(**settings)
        goal = objectives.make(**config.objective)
        model = model.clone(head=goal.heads(model))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"config.model or config.objective: {error}") from error
    tx, schedule = optim.make(steps=config.steps, **config.optim)
    init = state.make_init(model, tx, goal)
    try:
        abstract = jax.eval_shape(init, jax.random.key(config.seed))
    except ValueError as error:  # what modules say of their settings; other errors are ours
        raise UserError(f"config.model: {error}") from error
    try:
        layout = sharding.layout(abstract, mesh, config.sharding)
    except ValueError as error:
        raise UserError(f"config.sharding: {error}") from error
    train_step = step.make_train_step(
        model,
        tx,
        objective=goal,
        schedule=schedule,
        ema=optim.ema_schedule(**config.ema, steps=config.steps),
        accumulate=config.accumulate,
        freeze_last_layer_steps=config.freeze_last_layer_steps,
        freeze_patch_embed=config.freeze_patch_embed,
    )
    return Program(
        model=model,
        objective=goal,
        init=jax.jit(init, out_shardings=layout),
        abstract=jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract, layout
        ),
        step=jax.jit(
            train_step,
            donate_argnames="state",
            out_shardings=(layout, None),
            compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
        ),
    )


def _fitted(given: Mapping[str, Any], device: jax.Device) -> dict[str, Any]:
    """The model's settings with "auto" replaced by what is fastest on a device (docs/performance.md)."""
    fastest = {
        "attention": attention.fitting(device, given["dtype"]),
        "layers": "unrolled" if device.platform == "gpu" else "scanned",
    }
    return {**given, **{name: value for name, value in fastest.items() if given[name] == "auto"}}


def lowered(what: Any, mesh: Mesh, rows: Mapping[str, int], length: int) -> jax.stages.Lowered:
    """The step of a program or a run: `rows` of each modality a device, reports of `length` tokens, shapes alone."""
    batch = towers.example(what.model, rows, length, sharding.batch_sharding(mesh), mesh.size)
    with jax.set_mesh(mesh):
        return what.step.lower(what.abstract, batch)


def work(
    config: ml_collections.ConfigDict, model: towers.UniMedI, rows: Mapping[str, int], length: int
) -> float | None:
    """Floating-point operations that a step on `rows` of each modality with reports of `length` tokens needs.

    None where they are not counted: of other objectives than UniMedI's.
    """
    if config.objective.name != "unimedi":
        return None
    return flops.training_step(
        model,
        xrays=rows["xray"],
        cts=rows["ct"],
        report_length=length,
        mask_ratio=config.objective.mask_ratio,
        mask_mode=config.objective.mask_mode,
    )
