"""A function in a process of its own: a compiler that ends its process costs the caller one line."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data import child_processes
from data.errors import UserError
from unimedi_jax import messages


def call(function: Callable[..., None], *arguments: Any, log: pathlib.Path, doing: str) -> None:
    """Calls a function of a module there; what libraries print to standard error goes to `log`, our lines do not.

    Raises:
        UserError: the process ended by itself. Errors of the function are raised as they are.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with child_processes.block_signals(signal.SIGINT):  # before the pool: its locks would start Python's tracker
        pool = concurrent.futures.ProcessPoolExecutor(1, context, _begin, (str(log),))
        result = pool.submit(function, *arguments)
    try:
        result.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{doing}: the compiler ended its process, which is a fault of the compiler or a lack of memory; what it "
            f"printed is in {log}. Try another batch or recomputation (config.pretrain.model.remat)"
        ) from error
    finally:
        pool.shutdown(wait=False)  # after a Ctrl-C the compiler is not waited for: it ends with this process


def _begin(log: str) -> None:
    child_processes.exit_with_parent()
    ours = os.dup(2)
    sys.stderr = os.fdopen(ours, "w", buffering=1)  # of Python, and so of our log
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)  # of libraries, which write there themselves
    messages.log_only_our_lines()
