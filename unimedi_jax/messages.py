"""What a person reads on the terminal beside results: our log lines, and one line for what the machine lacks."""

import copy
import errno
import logging
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import absl.logging

from data import plain
from data.buckets import mirror

# What a person mends outside the program: no room, no quota, no right to write, a disk that fails or has gone.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG)
_DISK = (*_DISK, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENODEV, errno.EMFILE, errno.ENFILE)
# How libraries say the same that raise errors of their own.
_DISK_WORDS = ("No space left on device", "Read-only file system", "Disk quota exceeded", "File too large")
_SHARED_MEMORY = ("synchronize.py", "shared_memory.py", "heap.py")  # of Python's multiprocessing


def shown(text: str) -> str:
    """A text as a terminal gets it: harmless, and what lies in a bucket by its address there."""
    return plain.text(mirror.named(text))


def of_the_machine(error: Exception) -> str:
    """The line for an error that is none of the program: disk, home, temporary files, shared memory; "" for others."""
    words = str(error)
    frames = [pathlib.PurePath(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError) and any(
        frame.parent.name == "multiprocessing" and frame.name in _SHARED_MEMORY for frame in frames
    ):
        return (
            f"this machine gives no shared memory to processes ({error.strerror}): check /dev/shm, or work without "
            "them, with --config.workers=1 or --config.input.processes=0"
        )
    if "No usable temporary directory" in words:
        return "there is no folder for temporary files that can be written to: name one in the variable TMPDIR"
    if isinstance(error, RuntimeError) and "home directory" in words:
        return "~ stands for no folder, as there is no home: set the variable HOME, or write paths in full"
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{error.filename or 'writing'}: {error.strerror}; check the disk, and the same command resumes"
    if cause := next((one for one in _DISK_WORDS if one in words), ""):
        return f"writing: {cause}; check the disk, and the same command resumes"
    return ""


def log_only_our_lines() -> None:
    """Shows the log lines of this project, and of the libraries' none; a lost disk of their threads is one line."""
    # The libraries log at length what they do; our own lines would drown in theirs. Their errors come as exceptions.
    absl.logging.set_verbosity(absl.logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainLines("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("unimedi_jax", "data"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False
    threading.excepthook = _briefly(threading.excepthook)
    sys.unraisablehook = _interrupt_again(_briefly(sys.unraisablehook))


def _interrupt_again(usual: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook that sends a Ctrl-C again which came where no exception can pass, and leaves all else to the usual one.

    JAX has Python call it after every garbage collection; what is raised in there, Python prints and forgets.
    """

    def hook(failed: Any) -> None:
        if not isinstance(failed.exc_value, KeyboardInterrupt):
            usual(failed)
            return
        # Later: in here it would be lost again.
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    return hook


class _PlainLines(logging.Formatter):
    """Lines in which nothing commands a terminal, and nothing passes for a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = copy.copy(record)
        line.msg, line.args = " ".join(record.getMessage().split("\n")), ()
        return shown(super().format(line))


def _briefly(usual: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook that words a lost disk in one line and leaves every other error to the usual one.

    TensorBoard's files are written by a thread of its own and closed at exit. What must not be lost, the lines of
    metrics and the checkpoints, raises errors of its own.
    """

    def hook(failed: Any) -> None:
        if isinstance(failed.exc_value, OSError):
            print(f"warning: tensorboard/ may lack lines: {failed.exc_value}", file=sys.stderr)
        else:
            usual(failed)

    return hook
