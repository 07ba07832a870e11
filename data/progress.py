"""Shows the progress of a long pass over records, and how long the rest will take."""

import contextlib
import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator

import tqdm

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 30
Tick = Callable[[int], None]


@contextlib.contextmanager
def shown(total: int, what: str, *, done: int = 0) -> Iterator[Tick]:
    """Yields a function that takes the number done since its last call: a bar on a terminal, else a line now and then.

    `what` names the things counted, in the plural; `done` of them were done before. A pass of seconds shows nothing.
    """
    if sys.stderr.isatty():
        bar = tqdm.tqdm(total=total, initial=done, desc=what, unit="", smoothing=0.1, delay=5, leave=False)
        with bar:
            yield lambda count: bar.update(count) and None
        return
    fresh, started = 0, time.monotonic()
    last = started

    def tick(count: int) -> None:
        nonlocal fresh, last
        fresh += count
        now = time.monotonic()
        if now - last > EVERY_SECONDS:
            last = now
            left = datetime.timedelta(seconds=round((total - done - fresh) * (now - started) / fresh))
            LOG.info("%d of %d %s, %.1f/s, %s left", done + fresh, total, what, fresh / (now - started), left)

    yield tick
