"""Converts rows in worker processes, in order, with a bounded number in flight."""

import collections
import concurrent.futures
import contextlib
import itertools
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool

from data import child_processes
from data.build import heap
from data.record_grid import RecordGrid
from data.source import ConvertRow, Example, Rejected, Row, Source

Converted = tuple[Row, Example | Rejected]
Convert = Callable[[Iterable[Row]], Iterator[Converted]]
IN_FLIGHT = 3  # rows waiting per worker: enough to keep it busy, few enough to bound memory
LARGE = 1 << 26  # bytes of a volume; of larger ones, and those without a shape of the set's, one row waits per worker


@contextlib.contextmanager
def converter(source: Source, workers: int) -> Iterator[Convert]:
    """Yields a function that converts rows lazily; several of its iterators may be open at once.

    `workers` 0 means one for each core that this process may use, 1 works in this process.
    """
    if not workers:
        import joblib  # not at the top: workers do not need it

        workers = joblib.cpu_count()
    if workers == 1:
        yield lambda rows: ((row, source.convert(row)) for row in rows)
        return
    processes = Workers(source.convert, workers, in_flight(source.grid))
    try:
        yield processes.convert
    except KeyboardInterrupt:
        processes.close(wait=False)  # they end with this process, and nothing of theirs is awaited
        raise
    finally:
        processes.close()


def in_flight(grid: RecordGrid) -> int:
    """Rows waiting per worker: the records that are done wait in this process's memory."""
    return 1 if grid.spacing_mm or 2 * math.prod(grid.volume) > LARGE else IN_FLIGHT


class Workers:
    """Processes that convert rows, replaced when one of them dies; started on their first use.

    They are spawned: a forked one would inherit threads of other libraries in an unknown state.
    """

    def __init__(self, convert: ConvertRow, count: int, ahead: int = IN_FLIGHT) -> None:
        self._convert, self._count, self._ahead = convert, count, ahead
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None

    def convert(self, rows: Iterable[Row]) -> Iterator[Converted]:
        """Every row with its result, in order; a row that ends its process is rejected, and no other."""
        rows = iter(rows)
        waiting: collections.deque[tuple[Row, concurrent.futures.Future | None]] = collections.deque()
        while True:
            executor = self._executor = self._executor or _executor(self._count)
            try:
                # Submitting to a pool that has just broken raises what a lost result does.
                for row in itertools.islice(rows, self._ahead * self._count - len(waiting)):
                    waiting.append((row, None))
                    with child_processes.block_signals(signal.SIGINT):  # submitting may start one
                        waiting[-1] = (row, executor.submit(self._convert, row))
                if not waiting:
                    return
                result = waiting[0][1].result()
            except BrokenProcessPool:
                if self._executor is executor:
                    self.close()
                # All rows in flight are lost, and it is unknown which ended the process: each is tried by itself.
                lost = [row for row, _ in waiting]
                waiting.clear()
                yield from ((row, _alone(self._convert, row)) for row in lost)
                continue
            row, _ = waiting.popleft()
            yield row, _sharing(result, row)

    def close(self, *, wait: bool = True) -> None:
        """Ends the processes; without `wait` each when its row is done, or this process ends."""
        if self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None


def _sharing(result: Example | Rejected, row: Row) -> Example | Rejected:
    """The result with the row's own strings: a copy of each came back from the process, and some are kept."""
    if not isinstance(result, Rejected):
        for name in ("report", "patient"):
            own = getattr(row.info, name, None)
            if name in result and result[name] == own:
                result[name] = own
    return result


def _alone(convert: ConvertRow, row: Row) -> Example | Rejected:
    """Converts one row in a process of its own: if that dies, the row is the cause."""
    with _executor(1) as executor:
        try:
            with child_processes.block_signals(signal.SIGINT):
                result = executor.submit(convert, row)
            return result.result()
        except BrokenProcessPool:
            return Rejected(row.number, row.path, "reader_crashed: reading the file ended the process that read it")


def _executor(count: int) -> concurrent.futures.ProcessPoolExecutor:
    child_processes.start_tracker()  # a pool's locks would start it with its warnings
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=_begin)


def _begin() -> None:
    """There is one process per core already: more threads would only compete."""
    child_processes.exit_with_parent()
    heap.reuse()
    import cv2
    import threadpoolctl

    cv2.setNumThreads(1)
    threadpoolctl.threadpool_limits(1)
