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
    with contextlib.ExitStack() as stack:
        yield lambda rows: _in_order(stack, source.convert, rows, workers)


def _in_order(
    stack: contextlib.ExitStack, convert: Callable[[Row], Example | Rejected], rows: Iterable[Row], workers: int
) -> Iterator[Converted]:
    rows = iter(rows)
    waiting: collections.deque[tuple[Row, concurrent.futures.Future | None]] = collections.deque()
    executor = _executor(stack, workers)
    while True:
        try:
            # Submitting to a pool that has just broken raises what a lost result does.
            for row in itertools.islice(rows, IN_FLIGHT * workers - len(waiting)):
                waiting.append((row, None))
                waiting[-1] = (row, executor.submit(convert, row))
            if not waiting:
                return
            result = waiting[0][1].result()
        except BrokenProcessPool:
            # All rows in flight are lost, and nobody knows to whom: one by one, the one that does it stands alone.
            lost = [row for row, _ in waiting]
            waiting.clear()
            yield from ((row, _alone(convert, row)) for row in lost)
            executor = _executor(stack, workers)
            continue
        yield waiting.popleft()[0], result


def _alone(convert: Callable[[Row], Example | Rejected], row: Row) -> Example | Rejected:
    """Converts one row in a process of its own, whose death is the row's fault."""
    with contextlib.ExitStack() as stack:
        try:
            return _executor(stack, 1).submit(convert, row).result()
        except BrokenProcessPool:
            return Rejected(row.number, row.path, "reader_crashed: reading the file ended the process that read it")


def _executor(stack: contextlib.ExitStack, workers: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    stack.callback(executor.shutdown, cancel_futures=True)
    return executor


def _one_thread() -> None:
    """One process per core already: threads of the libraries would only get in each other's way."""
    import cv2
    import SimpleITK
    import threadpoolctl

    cv2.setNumThreads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpoolctl.threadpool_limits(1)
