"""How far a long pass over records is, and how long the rest will take."""

import contextlib
import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator

import tqdm

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 30


@contextlib.contextmanager
def shown(total: int, what: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes how many are done since its last call: a bar on a terminal, else a line now and then.

    `what` is counted, in the plural. `done` of them cost no time here. Passes of seconds show nothing.
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
            LOG.info("%d of %d %s, %.1f/s, left %s", done + fresh, total, what, fresh / (now - started), left)

    yield tick
