"""What processes that read batches need to know about the process that they read for."""

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
def block_signals() -> Iterator[None]:
    """Processes started in here never receive Ctrl-C and SIGTERM, which go to all processes of a terminal or a job.

    The run answers them: it saves its state and closes its readers. Signals that arrive meanwhile wait for the end.
    """
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Starts Python's process that frees the shared memory of killed ones.

    It must start before the readers: starting it with them would unblock the signals. Its long warnings about freed
    memory, shown when a run stops while it compiles, are turned off.
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


def exit_with_parent() -> functools.partial[None]:
    """An initialiser for reading processes: they exit when this process is killed and cannot close them."""
    return functools.partial(_watch, os.getpid())


def _watch(parent: int, number: int, count: int) -> None:
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
