"""Worker processes and the one that they work for: none outlives it, and none answers Ctrl-C in its place."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker


@contextlib.contextmanager
def block_signals(*signals: signal.Signals) -> Iterator[None]:
    """Processes started in here never receive these, such as a terminal's Ctrl-C to all: who started them answers it.

    One that arrives meanwhile waits for the end. Other threads than the main one receive none in any case.
    """
    start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker() -> None:
    """Starts Python's process that frees the shared memory of killed ones.

    It must start before the others: starting it with them would unblock their signals. Its long warnings about freed
    memory, shown when a run stops while it compiles, are turned off.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            os.environ.pop("PYTHONWARNINGS", None)  # another thread that starts it may have removed it
        else:
            os.environ["PYTHONWARNINGS"] = before


def exit_with_parent() -> None:
    """To be called first in a process of `multiprocessing`: it ends when its parent does, however that died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)  # the main thread may be in a library that never returns
