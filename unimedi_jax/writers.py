"""Where scalars go: `metrics.jsonl`, TensorBoard event files, and the log."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

# tensorboardX imports PyTorch wherever it is installed, seconds at every start, for nothing that is written here.
_torch = sys.modules.setdefault("torch", None)
from tensorboardX import SummaryWriter  # noqa: E402

if _torch is None:
    del sys.modules["torch"]


class Writer:
    """Appends scalars to `workdir/metrics.jsonl` and `workdir/tensorboard/`.

    After a resume at step s, lines of later steps are cut off first: the file reads as if the run had never stopped.
    Only the first process of a run writes; the others get a writer that does nothing (`active=False`).
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int, active: bool = True) -> None:
        self.workdir = workdir
        self._active = active
        if not active:
            return
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
        self._events = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=resume_step + 1)

    def _close(self) -> None:
        self._lines.close()
        self._events.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line: step, wall time in seconds since 1970, and every scalar; not-a-number becomes null."""
        if not self._active:
            return
        values = {name: float(value) for name, value in values.items()}
        line = {"step": step, "time": round(time.time(), 3)}
        line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """All lines on the disk: before a checkpoint that counts on them."""
        if self._active:
            os.fsync(self._lines.fileno())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._active:
            self._close()


def lines(workdir: pathlib.Path) -> Iterator[dict[str, float]]:
    """The lines of a run's `metrics.jsonl` one after the other; none where there is no file."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
    """All of them."""
    return list(lines(workdir))


def _cut_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed process
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)
