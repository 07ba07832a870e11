"""What a process that reads batches has to know of the one it reads them for."""

import functools
import os
import signal
import threading
import time


def begin(parent: int, number: int, count: int) -> None:
    """First thing in a reading process, of which there are `count`: the end of the run is not its own affair.

    Signals go to all processes of a terminal or job: the run saves its state and closes its readers. They end by
    themselves where it was killed and cannot.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def of_this_process() -> functools.partial[None]:
    """`begin` for the readers of this process."""
    return functools.partial(begin, os.getpid())


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
