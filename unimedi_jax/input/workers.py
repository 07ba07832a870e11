"""What processes that read batches need to know about the process that they read for."""

import contextlib
import signal

from data import child_processes


def block_signals() -> contextlib.AbstractContextManager[None]:
    """Processes started in here never receive Ctrl-C and SIGTERM, which go to all processes of a terminal or a job.

    The run answers them: it saves its state and closes its readers.
    """
    return child_processes.block_signals(signal.SIGINT, signal.SIGTERM)


def exit_with_parent(number: int, count: int) -> None:
    """An initialiser for reading processes: they end when the process that they read for is killed."""
    child_processes.exit_with_parent()
