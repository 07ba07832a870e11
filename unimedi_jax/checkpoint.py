"""The checkpoints of a run: state, position in the data and facts about it, valid only with their manifest.

    checkpoints/<step>/{state,data,meta}/   written by Orbax in the background, renamed to this when complete
    checkpoints/<step>/manifest.json        hashes of all of it, added last: without it, it is no checkpoint

Orbax restores a flipped bit without noticing. The hashes are taken in memory, before a save and after a restore, so
they cover everything between.

Of a workdir in a bucket every host has a mirror on its own disk. The first one gathers the state, saves it there and
sends it in the background, the manifest last; a checkpoint counts when it has arrived.
"""

import contextlib
import fcntl
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from data.buckets.mirror import Mirror
from data.errors import UserError
from unimedi_jax import checkpoint_arrays, checkpoint_reading, checkpoint_sending, hosts, integrity
from unimedi_jax.checkpoint_reading import Meta
from unimedi_jax.typing import PyTree

SPARE = 64 * 2**20  # bytes that stay free beyond the checkpoint itself: the logs go on


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
        self._sender = checkpoint_sending.Sender(place)
        self._scores: Mapping[int, float] = {}
        self._lock: IO[str] | None = None
        if self._has_disk:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            integrity.tidy(self.folder, half_sent=place is not None)
        hosts.barrier("checkpoints are tidy")
        self._orbax = ocp.AsyncCheckpointer(checkpoint_arrays.handler())
        self._writer, self._gathers = self._orbax, place is not None and jax.process_count() > 1
        if self._gathers and self._primary:
            own = checkpoint_sending.ALONE
            self._writer = ocp.AsyncCheckpointer(checkpoint_arrays.handler(own), multiprocessing_options=own)

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
            arrays = jax.tree.map(checkpoint_arrays.key_data, state)
            if self._gathers:
                arrays = checkpoint_sending.gathered(arrays)
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
        with self._explained(self._begun):
            self._sender.check()
        if self._pending is None:
            return
        folder = self.folder / str(self._pending)
        with self._explained(self._pending):
            self._writer.check_for_errors()
            if self._primary and folder.exists():
                integrity.commit(folder)
                self._prune()
                self._sender.begin()
        if integrity.committed(folder):
            self._pending = None

    def wait(self) -> None:
        """Returns when everything is written, in the bucket if there is one."""
        if self._begun is None:
            return
        with self._explained(self._begun):
            self._writer.wait_until_finished()
        self.check()
        with self._explained(self._begun):
            self._sender.wait()
        hosts.barrier("a checkpoint is committed")
        self._begun = self._pending = None

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
        restored = checkpoint_reading.newest(self.folder, lambda step: self._load(step, abstract), advice)
        if restored is not None:
            self._after(restored.step, integrity.put_aside)
        return restored

    def close(self) -> None:
        """Waits for the running save and unlocks the folder."""
        try:
            self.wait()
        finally:
            self._sender.close()
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
        with checkpoint_arrays.damage_named():
            json = checkpoint_arrays.JSON
            items = ocp.args.Composite(state=checkpoint_arrays.onto(abstract), data=json, meta=json)
            restored = self._orbax.restore(folder, args=items)
        if missing := {"state", "data", "meta"} - {name for name, value in restored.items() if value is not None}:
            raise integrity.DamagedError(f"it lacks {', '.join(sorted(missing))}")
        state = jax.tree.map(checkpoint_arrays.like, restored["state"], abstract)
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
            self._begun = self._pending = None
            where = self.folder if self._place is None else self._place.url
            what = "disk" if self._place is None else "disk and the bucket"
            why = checkpoint_arrays.first_line(error)
            raise UserError(
                f"the checkpoint of step {step} could not be written to {where} ({why}); those before it are whole: "
                f"check the {what}, and the same command resumes from there"
            ) from error


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
