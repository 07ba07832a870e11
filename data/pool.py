"""Converts rows in worker processes, in order, with a bounded number in flight."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool

from data.source import Example, Rejected, Row, Source
from unimedi_jax import errors

Converted = tuple[Row, Example | Rejected]
IN_FLIGHT = 3  # rows waiting per worker: enough to keep it busy, few enough to bound memory


@contextlib.contextmanager
def opened(source: Source, workers: int) -> Iterator[Callable[[Iterable[Row]], Iterator[Converted]]]:
    """Yields a function that converts rows lazily; several of its iterators may be open at once.

    `workers` 0 means one per core, 1 works in this process. Workers are spawned: a forked one would inherit the
    threads of whatever library has run before, in an unknown state.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield lambda rows: ((row, source.convert(row)) for row in rows)
        return
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    try:
        yield lambda rows: _in_order(executor, source.convert, rows, ahead=IN_FLIGHT * workers)
    finally:
        executor.shutdown(cancel_futures=True)


def _in_order(
    executor: concurrent.futures.Executor,
    convert: Callable[[Row], Example | Rejected],
    rows: Iterable[Row],
    *,
    ahead: int,
) -> Iterator[Converted]:
    rows = iter(rows)
    waiting: collections.deque = collections.deque()
    try:
        waiting.extend((row, executor.submit(convert, row)) for row in itertools.islice(rows, ahead))
        while waiting:
            row, future = waiting.popleft()
            yield row, future.result()
            waiting.extend((row, executor.submit(convert, row)) for row in itertools.islice(rows, 1))
    except BrokenProcessPool as error:
        raise errors.UserError(
            "a worker process died while reading (out of memory?): try a smaller config.workers"
        ) from error


def _one_thread() -> None:
    """One process per core already: threads of the libraries would only get in each other's way."""
    import cv2
    import SimpleITK
    import threadpoolctl

    cv2.setNumThreads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpoolctl.threadpool_limits(1)
