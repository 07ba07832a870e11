"""How much memory one row may take, whatever its header or its stream claims: checked by size, before decoding."""

import contextvars
from collections.abc import Callable
from typing import TypeVar

from data.readers.files import BadInput

T, R = TypeVar("T"), TypeVar("R")
GIGABYTE = 1 << 30
DEFAULT_GB = 2.0
LIBRARIES = 300 << 20  # what a worker holds before it has read anything: the interpreter, NumPy, OpenCV, SciPy
LIMIT: contextvars.ContextVar[float] = contextvars.ContextVar("memory of a worker in GB", default=DEFAULT_GB)


def check(needed: int) -> None:
    """Raises BadInput unless a worker can hold `needed` bytes beside its libraries."""
    limit = LIMIT.get()
    if needed + LIBRARIES > limit * GIGABYTE:
        raise BadInput(
            "too_large",
            f"reading it would take {(needed + LIBRARIES) / GIGABYTE:.1f} GB of memory, "
            f"config.worker_memory_gb is {limit:g}",
        )


def limited(convert: Callable[[T], R], gigabytes: float, row: T) -> R:
    """`convert(row)` under a limit; a partial of it takes the limit along to the process that converts."""
    before = LIMIT.set(gigabytes)
    try:
        return convert(row)
    finally:
        LIMIT.reset(before)
