"""Where scalars go: `metrics.jsonl`, TensorBoard event files, and the trackers of `config.track`."""

import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from unimedi_jax.trackers import Tracker

LOG = logging.getLogger(__name__)


class Writer:
    """Appends scalars to `workdir/metrics.jsonl` and `workdir/tensorboard/`.

    After a resume at step s, lines of later steps are cut off first: the file reads as if the run had never stopped.
    Only the first process of a run writes; the others get a writer that does nothing (`active=False`). The numbers go
    to the trackers too; one that fails is left behind, and the run goes on.
    """

    def __init__(
        self, workdir: pathlib.Path, *, resume_step: int, active: bool = True, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.workdir = workdir
        self._active = active
        self._trackers = list(trackers)
        if active:
            self._open(resume_step)

    def cut(self, step: int) -> None:
        """Takes back what was written of later steps than `step`."""
        if self._active:
            self._close()
            self._open(step)

    def _open(self, resume_step: int) -> None:
        path = self.workdir / "metrics.jsonl"
        _cut_after(path, resume_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = EventFileWriter(str(self.workdir / "tensorboard"))
        # A new session: TensorBoard hides what earlier files hold of its first step and later ones.
        self._event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _close(self) -> None:
        self._lines.close()
        self._events.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line: step, wall time in seconds since 1970, and every scalar; not-a-number becomes null."""
        if not self._active:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3)} | finite) + "\n")
        self._lines.flush()
        known = {name: value for name, value in finite.items() if value is not None}
        self._event(step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in known.items()]))
        self._each(lambda tracker: tracker.scalars(step, known))

    def page(self, path: pathlib.Path) -> None:
        """The run's report page, for the trackers."""
        self._each(lambda tracker: tracker.page(path))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # a server of somebody else's, or the way to it
                self._trackers.remove(tracker)
                LOG.warning("%s fails (%s): the run continues without it", tracker.name, type(error).__name__)

    def _event(self, step: int, **content: Any) -> None:
        self._events.add_event(Event(wall_time=time.time(), step=step, **content))

    def sync(self) -> None:
        """All lines on the disk: before a checkpoint that counts on them."""
        if self._active:
            os.fsync(self._lines.fileno())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._each(lambda tracker: tracker.close(whole=kind is None))
        if self._active:
            self._close()


def lines(workdir: pathlib.Path) -> Iterator[dict[str, float]]:
    """The lines of a run's `metrics.jsonl` one after the other; none where there is no file."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the torn last line of a killed process
            if isinstance(values, dict) and isinstance(values.get("step"), int):
                yield values


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
    """All of them."""
    return list(lines(workdir))


def _cut_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    lines_before = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines_before.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed process
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in lines_before), encoding="utf-8")
    partial.replace(path)
