"""All of Orbax in one place: state, position in the data and facts about the run, valid only with their manifest.

    checkpoints/<step>/{state,data,meta}/   written by Orbax in the background, renamed to this when complete
    checkpoints/<step>/manifest.json        hashes of all of it, added last: without it, it is no checkpoint

Orbax restores a flipped bit without noticing. The hashes are taken in memory, before a save and after a restore, so
they cover everything between.

Of a workdir in a bucket every host has a mirror on its own disk. The first one gathers the state, saves it there and
sends it in the background, the manifest last; a checkpoint counts when it has arrived.
"""

import contextlib
import fcntl
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from data.buckets.mirror import Mirror
from data.errors import UserError
from unimedi_jax import hosts, integrity
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
SMALLEST_SLICE = 2**20  # bytes; a replicated array is divided among its devices only if each then writes this much
SPARE = 64 * 2**20  # bytes that stay free beyond the checkpoint itself: the logs go on
JSON = ocp.args.JsonRestore()
TOGETHER = ocp.options.MultiprocessingOptions()
# The first host saves without the others, who restore with it, each from its own disk.
ALONE = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="alone")
Meta = dict[str, Any]  # facts about the run, as JSON
T = TypeVar("T")


class Restored(NamedTuple):
    """A checkpoint that passed its hashes."""

    step: int
    state: PyTree
    position: Any  # of the data iterator, for its `set_state`
    meta: Meta


class Candidate(NamedTuple):
    """A whole checkpoint as Orbax's preservation policies see it."""

    step: int
    metrics: float | None  # the score of its validation; None without one


class Checkpoints:
    """The checkpoints of one run. Every process of it calls every method, in the same order.

    The latest `keep` stay, the `keep_best` with the highest scores, and those of every `keep_every` steps (0 = none).
    `place`: the mirror that the workdir is, if it is in a bucket.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int = 2,
        keep_every: int = 0,
        keep_best: int = 0,
        place: Mirror | None = None,
    ) -> None:
        self.folder = (workdir / "checkpoints").absolute()
        self._policies = [policies.LatestN(max(keep, 1))]
        if keep_every:
            self._policies.append(policies.EveryNSteps(keep_every))
        if keep_best:
            best = policies.BestN(get_metric_fn=float, n=keep_best, keep_checkpoints_without_metrics=False)
            self._policies.append(best)
        self._primary = jax.process_index() == 0
        self._place, self._has_disk = place, self._primary or place is not None  # of its own
        self._begun: int | None = None  # the step of the last save, the same on all hosts, until it was waited for
        self._pending: int | None = None  # the step that Orbax is writing, its manifest not yet in place
        self._sending: Future[None] | None = None
        self._sender = ThreadPoolExecutor(1)
        self._scores: Mapping[int, float] = {}
        self._lock: IO[str] | None = None
        if self._has_disk:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            integrity.tidy(self.folder, half_sent=place is not None)
        hosts.barrier("checkpoints are tidy")
        self._orbax = ocp.AsyncCheckpointer(_handler())
        self._writer, self._gathers = self._orbax, place is not None and jax.process_count() > 1
        if self._gathers and self._primary:
            self._writer = ocp.AsyncCheckpointer(_handler(ALONE), multiprocessing_options=ALONE)

    def save(
        self, step: int, state: PyTree, iterator: Iterator[Any], meta: Meta, scores: Mapping[int, float] | None = None
    ) -> None:
        """Begins to save the state after `step` steps with the iterator after as many batches.

        Waits for the previous save to finish and returns once the state is copied. `scores` of steps, higher is
        better, decide what `keep_best` preserves.

        Raises:
            UserError: there is no room, or this save or the previous one could not be written.
        """
        self.wait()
        folder = self.folder / str(step)
        if folder.exists():
            return
        self._scores = scores or {}
        position = iterator.get_state()
        self._check_room(step, state)
        with self._explained(step):
            if self._primary:
                integrity.prepare(folder, integrity.describe(step, state, data=position, meta=meta))
            else:
                integrity.describe(step, state)  # hashing global arrays takes all hosts
            self._begun = self._pending = step
            arrays = jax.tree.map(_key_data, state)
            if self._gathers:
                arrays = jax.tree.map(_gathered, arrays)  # takes all hosts, one array after the other
                if not self._primary:
                    return
            items = {
                "state": ocp.args.PyTreeSave(arrays),
                "data": ocp.args.JsonSave(position),
                "meta": ocp.args.JsonSave(meta),
            }
            self._writer.save(folder, args=ocp.args.Composite(**items))

    def check(self) -> None:
        """Commits a save that has finished in the meantime; raises the UserError of one that failed."""
        if self._begun is None:
            return
        if self._sending is not None and self._sending.done():
            with self._explained(self._begun):
                self._sending.result()
            self._sending = None
        if self._pending is None:
            return
        folder = self.folder / str(self._pending)
        with self._explained(self._pending):
            self._writer.check_for_errors()
            if self._primary and folder.exists():
                integrity.commit(folder)
                self._prune()
                if self._place is not None:
                    self._sending = self._sender.submit(self._place.push)
        if integrity.committed(folder):
            self._pending = None

    def wait(self) -> None:
        """Returns when everything is written, in the bucket if there is one."""
        if self._begun is None:
            return
        with self._explained(self._begun):
            self._writer.wait_until_finished()
        self.check()
        if self._sending is not None:
            with self._explained(self._begun):
                self._sending.result()
        hosts.barrier("a checkpoint is committed")
        self._begun = self._pending = self._sending = None

    def restore(self, abstract: PyTree, last: int | None = None) -> Restored | None:
        """The newest checkpoint that passes, straight onto its devices; None where there is none at all.

        With `last`, the newest up to that step; later ones are removed, as the run is about to repeat those steps.
        `abstract` is a tree of ShapeDtypeStructs with shardings. Checkpoints that do not pass are named in the log and
        renamed to `<step>.damaged`.

        Raises:
            UserError: there are checkpoints but none passes, or the newest belongs to another configuration.
        """
        if last is not None:
            self.wait()
            self._after(last, integrity.remove)
            if self._place is not None and not self._primary:
                self._place.pull()  # what the first host has saved since
        advice = "bring back a copy of one, or start anew with another --workdir"
        restored = _newest(self.folder, lambda step: self._load(step, abstract), advice)
        if restored is not None:
            self._after(restored.step, integrity.put_aside)
        return restored

    def close(self) -> None:
        """Waits for the running save and unlocks the folder."""
        try:
            self.wait()
        finally:
            self._sender.shutdown()
            if self._writer is not self._orbax:
                self._writer.close()
            self._orbax.close()
            if self._lock is not None:
                self._lock.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:  # else the first error is the one to show
                raise

    def _load(self, step: int, abstract: PyTree) -> Restored:
        folder = self.folder / str(step)
        manifest = integrity.read(folder)
        integrity.fits(manifest, abstract)
        with _damage_named():
            items = ocp.args.Composite(state=_onto(abstract), data=JSON, meta=JSON)
            restored = self._orbax.restore(folder, args=items)
        if missing := {"state", "data", "meta"} - {name for name, value in restored.items() if value is not None}:
            raise integrity.DamagedError(f"it lacks {', '.join(sorted(missing))}")
        state = jax.tree.map(_like, restored["state"], abstract)
        integrity.hold_against(manifest, state, data=restored["data"], meta=restored["meta"])
        return Restored(step, state, restored["data"], restored["meta"])

    def _after(self, last: int, dispose: Callable[[pathlib.Path], None]) -> None:
        if self._has_disk:
            later = [step for step in reversed(integrity.steps(self.folder)) if step > last]
            for step in later:
                dispose(self.folder / str(step))
            if self._place is not None and self._primary and later:
                self._place.push()
        hosts.barrier("later checkpoints are out of the way")

    def _prune(self) -> None:
        # Only what has its manifest counts: the last good one never gives way to a broken one.
        good = [step for step in integrity.steps(self.folder) if integrity.committed(self.folder / str(step))]
        candidates = [Candidate(step, self._scores.get(step)) for step in good]
        preservation = policies.AnyPreservationPolicy(self._policies)
        preserved = preservation.should_preserve(candidates, context=policies.PreservationContext())
        for step, stays in zip(good, preserved, strict=True):
            if not stays:
                integrity.remove(self.folder / str(step))

    def _check_room(self, step: int, state: PyTree) -> None:
        needed = SPARE + sum(leaf.nbytes for leaf in jax.tree.leaves(state))  # all hosts write to one disk
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"no room for the checkpoint of step {step}: it takes {needed / 1e9:.2f} GB, {self.folder} has "
                f"{free / 1e9:.2f} GB left; make room, and the same command resumes from the checkpoint before"
            )

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._begun = self._pending = self._sending = None
            where = self.folder if self._place is None else self._place.url
            what = "disk" if self._place is None else "disk and the bucket"
            raise UserError(
                f"the checkpoint of step {step} could not be written to {where} ({_first_line(error)}); those "
                f"before it are whole: check the {what}, and the same command resumes from there"
            ) from error


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
    newest = _newest(root, lambda step: (step, *_read(root / str(step), parts)), "bring back a copy of one")
    if newest is None:
        raise UserError(f"{workdir} holds no checkpoint: train first, or name another run")
    return newest


def _newest(root: pathlib.Path, load: Callable[[int], T], advice: str) -> T | None:
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
    with ocp.Checkpointer(_handler()) as reader, _damage_named():
        saved = reader.metadata(folder).item_metadata["state"] if parts else {}
        selected = {part: saved[part] for part in parts}
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), selected)
        integrity.check_claims(folder, abstract)
        items = {"state": _onto(abstract, partial_restore=True), "meta": JSON} if parts else {"meta": JSON}
        restored = reader.restore(folder, args=ocp.args.Composite(**items))
    state = restored["state"] if parts else {}
    if not isinstance(restored["meta"], dict):
        raise integrity.DamagedError("its meta is no JSON object")
    integrity.hold_against(manifest, state, meta=restored["meta"])
    return jax.device_get(state), restored["meta"]


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns what Orbax and TensorStore raise, any class in thousands of lines, into a DamagedError of one line."""
    try:
        yield
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError, integrity.DamagedError):
        raise  # says nothing of what was saved, or all
    except Exception as error:
        raise integrity.DamagedError(_first_line(error)) from error


def _handler(hosts_of: ocp.options.MultiprocessingOptions = TOGETHER) -> ocp.CompositeCheckpointHandler:
    # A program of its own cuts out each device's share of an array: for hundreds of small arrays, compiling these takes
    # longer than writing everything.
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_SLICE)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    return ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=hosts_of),
        state=ocp.PyTreeCheckpointHandler(type_handler_registry=registry, multiprocessing_options=hosts_of),
        data=ocp.JsonCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(),
    )


def _onto(abstract: PyTree, **settings: Any) -> ocp.args.PyTreeRestore:
    """Restores a tree of ShapeDtypeStructs onto the devices that their shardings name, keys as integers."""
    plain = jax.tree.map(_key_data, abstract)
    return ocp.args.PyTreeRestore(plain, restore_args=ocp.checkpoint_utils.construct_restore_args(plain), **settings)


def _gathered(array: jax.Array) -> np.ndarray | None:
    """A global array in the first host's memory, where no step can overwrite it; None on the others."""
    first = jax.process_index() == 0
    if array.is_fully_replicated:
        return np.array(array.addressable_data(0)) if first else None
    whole = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(whole) if first else None


def _key_data(leaf: Any) -> Any:
    """The integers of a random key or of its ShapeDtypeStruct; any other leaf as it is.

    Orbax's own record of which arrays are keys needs a part of it that is not public.
    """
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _like(array: jax.Array, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    """The key whose integers were restored, where `abstract` asks for one."""
    is_key = jax.dtypes.issubdtype(abstract.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array) if is_key else array


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
