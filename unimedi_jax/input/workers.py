"""What processes that read batches have to know of the one they read them for."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker

SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Processes started in here never hear of Ctrl-C and SIGTERM, which go to all processes of a terminal or a job.

    The run answers them: it saves its state and closes its readers. What arrives meanwhile waits for the end.
    """
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Python's process that frees what a killed one leaves: before the others, with which it would let signals in.

    It says at length what it has freed where a run stops while it compiles.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def ends_with_this() -> functools.partial[None]:
    """To be called first in a reading process: it ends when this one is killed and cannot close it."""
    return functools.partial(_watch, os.getpid())


def _watch(parent: int, number: int, count: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
