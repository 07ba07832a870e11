"""Checkpoints of a run for those that do not train it: which there are, and parts of one, on this host alone."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from data.errors import UserError
from unimedi_jax import checkpoint_arrays, integrity
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
Meta = dict[str, Any]  # facts about the run, as JSON
T = TypeVar("T")


def started(workdir: pathlib.Path) -> bool:
    """Whether a run has saved a state in this folder, be it damaged by now."""
    root = workdir / "checkpoints"
    return root.exists() and any(path.name[0].isdecimal() for path in root.iterdir())


def meta(workdir: pathlib.Path) -> Meta:
    """The meta of a run's newest checkpoint that passes. Raises UserError as `read`."""
    return read(workdir, ())[2]


def steps(workdir: pathlib.Path) -> list[int]:
    """The steps of a run's complete checkpoints, in order."""
    root = workdir / "checkpoints"
    return [step for step in integrity.steps(root) if integrity.committed(root / str(step))]


def read(workdir: pathlib.Path, parts: tuple[str, ...], step: int | None = None) -> tuple[int, dict[str, PyTree], Meta]:
    """Step, the named parts of the state and the meta of one checkpoint of a run, on this host alone.

    For jobs that use a network and do not train it: it needs no configuration, works whatever devices the run had, and
    changes nothing in the folder. Without a `step` it is the newest checkpoint that passes.

    Raises:
        UserError: the folder holds no checkpoint, none of that step, or none that passes.
    """
    root = (workdir / "checkpoints").absolute()
    if step is not None:
        return _of_step(root, step, parts)
    checkpoint = newest(root, lambda step: (step, *_read(root / str(step), parts)), "bring back a copy of one")
    if checkpoint is None:
        raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
    return checkpoint


def newest(root: pathlib.Path, load: Callable[[int], T], advice: str) -> T | None:
    """What `load` makes of the newest checkpoint that is not damaged; None where there is none at all."""
    damaged: list[str] = []
    for step in reversed(integrity.steps(root)):
        try:
            return load(step)
        except integrity.DamagedError as error:
            LOG.warning("checkpoint %d is skipped: %s", step, error)
            damaged.append(f"{step}: {error}")
    if damaged:
        raise UserError(f"none of the checkpoints in {root} can be used ({'; '.join(damaged)}): {advice}")
    return None


def _of_step(root: pathlib.Path, step: int, parts: tuple[str, ...]) -> tuple[int, dict[str, PyTree], Meta]:
    others = ", ".join(str(other) for other in steps(root.parent) if other != step) or "none"
    if not (root / str(step)).is_dir():
        raise UserError(f"{root.parent} has no checkpoint of step {step}: it has those of {others}")
    try:
        return step, *_read(root / str(step), parts)
    except integrity.DamagedError as error:
        problem = f"the checkpoint of step {step} in {root} cannot be used ({error})"
        raise UserError(f"{problem}: name another ({others}), or bring back a copy") from error


def _read(folder: pathlib.Path, parts: tuple[str, ...]) -> tuple[dict[str, PyTree], Meta]:
    manifest = integrity.read(folder)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.Checkpointer(checkpoint_arrays.handler()) as reader, checkpoint_arrays.damage_named():
        saved = reader.metadata(folder).item_metadata["state"] if parts else {}
        selected = {part: saved[part] for part in parts}
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), selected)
        integrity.check_claims(folder, abstract)
        items = {"meta": checkpoint_arrays.JSON}
        if parts:
            items["state"] = checkpoint_arrays.onto(abstract, partial_restore=True)
        restored = reader.restore(folder, args=ocp.args.Composite(**items))
    state = restored["state"] if parts else {}
    if not isinstance(restored["meta"], dict):
        raise integrity.DamagedError("its meta is no JSON object")
    integrity.hold_against(manifest, state, meta=restored["meta"])
    return jax.device_get(state), restored["meta"]
