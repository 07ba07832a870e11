"""A measured thing in a process of its own, so that memory and threads are its alone: makes one step whenever told.

    python -m unimedi_jax.bench.process unimedi_jax.bench.twin < settings

Settings are one line of JSON. Answers are lines of JSON: what `make(settings)` says of itself, then of every step its
seconds, at the end the peak of memory while stepping: of a GPU as the thing tells it, of the process otherwise.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

from data.errors import UserError


class Process:
    """The near end. `say` holds what the other end told of itself."""

    def __init__(self, module: str, settings: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.say = self._ask(json.dumps(settings))

    def step(self) -> float:
        """Seconds of one step."""
        return self._ask("step")["seconds"]

    def peak(self) -> float:
        """Bytes: of a device's memory the most that was in use, on a CPU what was resident since the first step."""
        return self._ask("peak")["bytes"]

    def _ask(self, line: str) -> dict[str, Any]:
        pipe = self._process
        with contextlib.suppress(BrokenPipeError):  # it ended: what it wrote stands on stderr
            pipe.stdin.write(line + "\n")
            pipe.stdin.flush()
        if not (answer := pipe.stdout.readline()):
            self.close()
            raise UserError(f"a measured process ended with exit code {pipe.returncode}: see above")
        return json.loads(answer)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(module: str) -> None:
    """The far end."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print
    made = importlib.import_module(module).make(json.loads(sys.stdin.readline()))

    def answer(said: dict[str, Any]) -> None:
        print(json.dumps(said), file=answers, flush=True)

    made.step()  # compiles, allocates
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compiling has left behind
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    answer(made.say)
    for line in sys.stdin:
        if line == "peak\n":
            status = pathlib.Path("/proc/self/status").read_text()
            resident = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
            answer({"bytes": made.peak() or resident})
            continue
        started = time.perf_counter()
        made.step()
        answer({"seconds": time.perf_counter() - started})


if __name__ == "__main__":
    serve(sys.argv[1])
