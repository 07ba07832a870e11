"""All of Orbax in one place: state, position in the data and facts about the run, saved and restored together."""

import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from unimedi_jax import trees
from unimedi_jax.errors import UserError
from unimedi_jax.typing import PyTree


def manager(workdir: pathlib.Path, *, every: int, keep: int = 2, keep_every: int = 0) -> ocp.CheckpointManager:
    """Saves asynchronously to `workdir/checkpoints`, keeps the latest `keep` and one each `keep_every` steps."""
    preserve = [policies.LatestN(keep)]
    if keep_every:
        preserve.append(policies.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=policies.FixedIntervalPolicy(every),
        preservation_policy=policies.AnyPreservationPolicy(preserve),
    )
    # Handlers named up front: the manager can then describe a checkpoint that it did not write.
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "data": grain.checkpoint.CheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options, item_handlers=handlers)


def save(
    manager: ocp.CheckpointManager,
    state: PyTree,
    iterator: Iterator[Any],
    meta: dict[str, Any],
    *,
    step: int,
    force: bool = False,
) -> bool:
    """The state after `step` steps with the iterator after as many batches; `force` ignores the interval."""
    if manager.latest_step() == step:
        return False
    return manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(iterator),
            meta=ocp.args.JsonSave(meta),
        ),
        force=force,
    )


def restore(
    manager: ocp.CheckpointManager, abstract: PyTree, iterator: Iterator[Any], *, step: int
) -> tuple[PyTree, dict[str, Any]]:
    """State of `step` straight onto its devices, with the run's meta; sets `iterator` to where it was.

    `abstract` is a tree of ShapeDtypeStructs with shardings.
    """
    _compare(manager, abstract, step)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract),
            data=grain.checkpoint.CheckpointRestore(iterator),
            meta=ocp.args.JsonRestore(),
        ),
    )
    return restored["state"], restored["meta"]


def meta(workdir: pathlib.Path) -> dict[str, Any]:
    """What a run's latest checkpoint says about itself.

    Raises:
        UserError: the folder holds no checkpoint.
    """
    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as found:
        step = found.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
        return found.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]


def read(workdir: pathlib.Path, parts: tuple[str, ...]) -> tuple[int, dict[str, PyTree], dict[str, Any]]:
    """Step, the named parts of the state and the meta of a run's newest checkpoint, on this host alone.

    For jobs that use a network and do not train it: no configuration is needed, and whatever devices the run had.

    Raises:
        UserError: the folder holds no checkpoint, or one that cannot be read.
    """
    if not (workdir / "checkpoints").is_dir():  # a manager would make the folder
        raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(),
        "data": grain.checkpoint.CheckpointHandler(),  # named, not read: or Orbax warns of what it cannot restore
        "meta": ocp.JsonCheckpointHandler(),
    }
    with ocp.CheckpointManager((workdir / "checkpoints").absolute(), item_handlers=handlers) as found:
        step = found.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            saved = found.item_metadata(step)["state"]
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                {part: saved[part] for part in parts},
            )
            how = ocp.checkpoint_utils.construct_restore_args(wanted)
            args = ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
            restored = found.restore(step, args=ocp.args.Composite(state=args, meta=ocp.args.JsonRestore()))
        except Exception as error:  # Orbax and TensorStore raise anything, in thousands of lines
            raise UserError(
                f"the checkpoint at step {step} of {workdir} is damaged or cut short ({type(error).__name__}): "
                "remove it to use the one before"
            ) from error
    return step, jax.device_get(restored["state"]), restored["meta"]


def _compare(manager: ocp.CheckpointManager, abstract: PyTree, step: int) -> None:
    # Orbax casts another dtype in silence and words another shape in thousands of lines; say it in one.
    saved = manager.item_metadata(step)["state"]
    saved = dict(zip(trees.names(saved), jax.tree.leaves(saved), strict=True))
    wanted = dict(zip(trees.names(abstract), jax.tree.leaves(abstract), strict=True))
    differing = sorted(set(saved) ^ set(wanted))
    for name in sorted(set(saved) & set(wanted)):
        if jax.dtypes.issubdtype(wanted[name].dtype, jax.dtypes.prng_key):
            continue  # stored as its raw words
        if (tuple(saved[name].shape), saved[name].dtype) != (wanted[name].shape, wanted[name].dtype):
            differing.append(f"{name} {tuple(saved[name].shape)} {saved[name].dtype}")
    if differing:
        shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
        raise UserError(
            f"the checkpoint at step {step} does not fit this configuration ({len(differing)} arrays differ: {shown}): "
            "use the run's own configuration, or another --workdir"
        )
