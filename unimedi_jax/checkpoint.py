"""All of Orbax in one place: state, position in the data and facts about the run, trusted only with their manifest.

    checkpoints/<step>/{state,data,meta}/   written by Orbax in the background, complete once it has this name
    checkpoints/<step>/manifest.json        hashes of it all, put there last: without it, it is no checkpoint

Orbax restores a flipped bit without a word. The hashes are taken of what is in memory, before a save and after a
restore, so that they cover the whole way.
"""

import contextlib
import fcntl
import logging
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.metadata import array_metadata_store

from data.errors import UserError
from unimedi_jax import hosts, integrity
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
SMALLEST_SLICE = 2**20  # bytes; what all devices hold alike is written by one of them where their shares are smaller
SPARE = 64 * 2**20  # bytes kept free beyond the checkpoint itself: the logs go on
JSON = ocp.args.JsonRestore()


class Restored(NamedTuple):
    """A checkpoint that passed its hashes."""

    step: int
    state: PyTree
    position: Any  # of the data iterator, for its `set_state`
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. Every process of it calls every method, in the same order.

    Kept are the latest `keep`, the `keep_best` with the highest scores, and one each `keep_every` steps (0 = none).
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int = 2, keep_every: int = 0, keep_best: int = 0) -> None:
        self.folder = (workdir / "checkpoints").absolute()
        self._keep, self._keep_every, self._keep_best = max(keep, 1), keep_every, keep_best
        self._chief = jax.process_index() == 0
        self._pending: int | None = None  # the step that Orbax writes, its manifest not yet in place
        self._scores: Mapping[int, float] = {}
        self._lock: IO[str] | None = None
        if self._chief:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            integrity.tidy(self.folder)
        hosts.meet("checkpoints are tidy")
        self._orbax = ocp.AsyncCheckpointer(_handler())

    def save(
        self,
        step: int,
        state: PyTree,
        iterator: Iterator[Any],
        meta: dict[str, Any],
        scores: Mapping[int, float] | None = None,
    ) -> None:
        """Begins to save the state after `step` steps with the iterator after as many batches.

        Returns once the state is copied; waits first where the save before still runs. `scores` map steps to what
        `keep_best` goes by.

        Raises:
            UserError: there is no room, or writing failed, now or of the save before.
        """
        self.wait()
        folder = self.folder / str(step)
        if folder.exists():
            return
        self._scores = scores or {}
        position = iterator.get_state()
        self._check_room(step, state)
        with self._explained(step):
            if self._chief:
                integrity.prepare(folder, integrity.describe(step, state, data=position, meta=meta))
            else:
                integrity.describe(step, state)  # hashing global arrays takes all hosts
            state, position, meta = ocp.args.PyTreeSave(state), ocp.args.JsonSave(position), ocp.args.JsonSave(meta)
            self._pending = step
            self._orbax.save(folder, args=ocp.args.Composite(state=state, data=position, meta=meta))

    def check(self) -> None:
        """Commits a save that has ended meanwhile; raises the error of one that failed, as a UserError."""
        if self._pending is None:
            return
        folder = self.folder / str(self._pending)
        with self._explained(self._pending):
            self._orbax.check_for_errors()
            if self._chief and folder.exists():
                integrity.commit(folder)
                self._prune()
        if integrity.committed(folder):
            self._pending = None

    def wait(self) -> None:
        """Returns when nothing is left to write."""
        if self._pending is None:
            return
        with self._explained(self._pending):
            self._orbax.wait_until_finished()
        self.check()
        hosts.meet("a checkpoint is committed")
        self._pending = None

    def restore(self, abstract: PyTree, last: int | None = None) -> Restored | None:
        """The newest checkpoint that passes, straight onto its devices; None where there is none at all.

        With `last`, the newest up to that step; those after it are removed: the run is about to take another way.
        `abstract` is a tree of ShapeDtypeStructs with shardings. What does not pass is named in the log and put aside
        as `<step>.damaged`.

        Raises:
            UserError: there are checkpoints but none passes, or the newest belongs to another configuration.
        """
        damaged: dict[int, str] = {}
        if last is not None:
            self._forget_after(last)
        for step in reversed(integrity.steps(self.folder)):
            try:
                found = self._load(step, abstract)
            except integrity.DamagedError as error:
                LOG.warning("checkpoint %d is skipped: %s", step, error)
                damaged[step] = str(error)
                continue
            if self._chief:
                for bad in damaged:
                    integrity.put_aside(self.folder / str(bad))
            hosts.meet("damaged checkpoints are aside")
            return found
        if damaged:
            reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
            raise UserError(
                f"none of the checkpoints in {self.folder} can be used ({reasons}): "
                "bring back a copy of one, or start anew with another --workdir"
            )
        return None

    def close(self) -> None:
        """Waits for the save at work and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._orbax.close()
            if self._lock is not None:
                self._lock.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:  # else the first error is the one to tell
                raise

    def _load(self, step: int, abstract: PyTree) -> Restored:
        folder = self.folder / str(step)
        said = integrity.read(folder)
        integrity.fits(said, abstract)
        args = ocp.args.Composite(state=_onto(abstract), data=JSON, meta=JSON)
        try:
            found = self._orbax.restore(folder, args=args)
        except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # says nothing of what was saved
        except Exception as error:
            raise integrity.DamagedError(_first_line(error)) from error
        if missing := {"state", "data", "meta"} - {name for name, value in found.items() if value is not None}:
            raise integrity.DamagedError(f"it lacks {', '.join(sorted(missing))}")
        integrity.hold_against(said, found["state"], data=found["data"], meta=found["meta"])
        return Restored(step, found["state"], found["data"], found["meta"])

    def _forget_after(self, last: int) -> None:
        self.wait()
        if self._chief:
            for step in reversed(integrity.steps(self.folder)):
                if step > last:
                    integrity.remove(self.folder / str(step))
        hosts.meet("later checkpoints are gone")

    def _prune(self) -> None:
        # Only what has its manifest counts: the last good one never gives way to a broken one.
        good = [step for step in integrity.steps(self.folder) if integrity.committed(self.folder / str(step))]
        scored = sorted((step for step in good if step in self._scores), key=lambda step: (self._scores[step], step))
        spared = {*good[-self._keep :], *scored[len(scored) - min(self._keep_best, len(scored)) :]}
        for step in good:
            if step not in spared and not (self._keep_every and step % self._keep_every == 0):
                integrity.remove(self.folder / str(step))

    def _check_room(self, step: int, state: PyTree) -> None:
        needed = SPARE + sum(leaf.nbytes for leaf in jax.tree.leaves(state))  # all hosts write to one disk
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"no room for the checkpoint of step {step}: it takes {needed / 1e9:.2f} GB, {self.folder} has "
                f"{free / 1e9:.2f} GB left; make room, and the same command goes on from the checkpoint before"
            )

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._pending = None
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({_first_line(error)}); those "
                "before it are whole: see to the disk, and the same command goes on from there"
            ) from error


def meta(workdir: pathlib.Path) -> dict[str, Any]:
    """What a run's newest checkpoint that passes says about itself. Raises UserError as `read`."""
    return read(workdir, ())[2]


def read(workdir: pathlib.Path, parts: tuple[str, ...]) -> tuple[int, dict[str, PyTree], dict[str, Any]]:
    """Step, the named parts of the state and the meta of a run's newest checkpoint that passes, on this host alone.

    For jobs that use a network and do not train it: no configuration is needed, whatever devices the run had, and
    nothing in the folder is touched.

    Raises:
        UserError: the folder holds no checkpoint, or none that passes.
    """
    root = (workdir / "checkpoints").absolute()
    damaged: list[str] = []
    for step in reversed(integrity.steps(root)):
        try:
            return step, *_read(root / str(step), parts)
        except integrity.DamagedError as error:
            LOG.warning("checkpoint %d is skipped: %s", step, error)
            damaged.append(f"{step}: {error}")
    if damaged:
        raise UserError(
            f"none of the checkpoints in {root} can be used ({'; '.join(damaged)}): bring back a copy of one"
        )
    raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")


def _read(folder: pathlib.Path, parts: tuple[str, ...]) -> tuple[dict[str, PyTree], dict[str, Any]]:
    said = integrity.read(folder)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.Checkpointer(_handler()) as reader:
        try:
            saved = reader.metadata(folder).item_metadata["state"] if parts else {}
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                {part: saved[part] for part in parts},
            )
            items = {"state": _onto(wanted, partial_restore=True), "meta": JSON} if parts else {"meta": JSON}
            found = reader.restore(folder, args=ocp.args.Composite(**items))
        except (PermissionError, MemoryError):
            raise  # says nothing of what was saved
        except Exception as error:  # Orbax and TensorStore raise anything, in thousands of lines
            raise integrity.DamagedError(_first_line(error)) from error
    state = found["state"] if parts else {}
    integrity.hold_against(said, state, meta=found["meta"])
    return jax.device_get(state), found["meta"]


def _handler() -> ocp.CompositeCheckpointHandler:
    # Each share of an array is cut out by a program of its own: for hundreds of small arrays that takes longer to
    # compile than all of them to write.
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SMALLEST_SLICE,
        array_metadata_store=array_metadata_store.Store(),  # Orbax's default; without it a key comes back as integers
    )
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.CompositeCheckpointHandler(
        state=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        data=ocp.JsonCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(),
    )


def _onto(abstract: PyTree, **settings: Any) -> ocp.args.PyTreeRestore:
    """To restore a tree of ShapeDtypeStructs onto the devices that their shardings name."""
    return ocp.args.PyTreeRestore(
        abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), **settings
    )


def _lock(folder: pathlib.Path) -> IO[str]:
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process trains in {folder.parent}: wait for its end, or name another --workdir"
        ) from None
    except OSError:
        pass  # a file system without locks
    return file


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__
