"""What processes that read batches need to know about the process that they read for."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator

from data import child_processes

SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Processes started in here never receive Ctrl-C and SIGTERM, which go to all processes of a terminal or a job.

    The run answers them: it saves its state and closes its readers. Signals that arrive meanwhile wait for the end.
    """
    child_processes.start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_with_parent() -> functools.partial[None]:
    """An initialiser for reading processes: they exit when this process is killed and cannot close them."""
    return functools.partial(_watch, os.getpid())


def _watch(parent: int, number: int, count: int) -> None:
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
