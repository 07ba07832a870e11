"""How far a pass over a source is, and how long the rest will take."""

import contextlib
import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator

import tqdm

LOG = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 30


@contextlib.contextmanager
def shown(total: int) -> Iterator[Callable[[int], None]]:
    """Takes the number of rows done since its last call: a bar on a terminal, a log line now and then elsewhere."""
    if sys.stderr.isatty():
        with tqdm.tqdm(total=total, unit="row", smoothing=0.1) as bar:
            yield lambda rows: bar.update(rows) and None
        return
    done, fresh, started = 0, 0, time.monotonic()
    last = started

    def tick(rows: int) -> None:
        nonlocal done, fresh, last
        done, fresh = done + rows, fresh + (rows == 1)  # finished shards cost no time, and tell nothing of what is left
        now = time.monotonic()
        if now - last > LOG_EVERY_SECONDS and fresh:
            last = now
            left = datetime.timedelta(seconds=round((total - done) * (now - started) / fresh))
            LOG.info("%d of %d rows, %.1f rows/s, left %s", done, total, fresh / (now - started), left)

    yield tick
