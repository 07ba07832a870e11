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


def parts(workdir: pathlib.Path, abstract: PyTree) -> tuple[PyTree, int]:
    """The parts of the newest state that `abstract` names, and its step: weights without the optimiser's moments.

    `abstract` is a nested dict of ShapeDtypeStructs with shardings, shaped like the state or a part of it.

    Raises:
        UserError: the folder holds no checkpoint, or one of other arrays.
    """
    folder = (workdir / "checkpoints").absolute()
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
    # A manager of its own: one manager reads an item in one way only.
    with ocp.CheckpointManager(folder) as found:
        step = found.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        wanted = ocp.args.PyTreeRestore(abstract, restore_args=how, partial_restore=True)
        try:
            return found.restore(step, args=ocp.args.Composite(state=wanted))["state"], step
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint at step {step} of {workdir} does not hold the arrays that its config describes"
            ) from error
