"""One run a folder: of two starts at the same moment one trains, and the other is told."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from data.buckets import mirror
from data.buckets.lease import Lease
from data.errors import UserError


@contextlib.contextmanager
def alone(workdir: pathlib.Path, *, primary: bool) -> Iterator[None]:
    """Holds a new or old workdir while a run is in it; a new one in which nothing was written is removed again.

    The lock is the folder's own, so it leaves no file and ends with the process. Only the first process of a run
    (`primary`) takes it.

    Raises:
        UserError: another process trains there.
    """
    if not primary:
        yield
        return
    handle = _lock(workdir)
    place = mirror.of(workdir)
    try:
        if place is None:
            yield
        else:
            with Lease(place.store, place.store.path) as place.lease:  # the lock is of this machine alone
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(UserError):  # the first error is the one to show
                        place.push()
                    raise
                place.push()
    finally:
        if place is not None:  # whoever holds it next is the one to send
            place.lease, place.active = None, place.path != workdir
        with contextlib.suppress(OSError):  # it holds the run
            workdir.rmdir()
        os.close(handle)


def _lock(workdir: pathlib.Path) -> int:
    while True:
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(workdir, os.O_RDONLY)
        except FileNotFoundError:
            continue  # the other start has just removed it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(
                f"another process trains in {workdir}: wait for its end, or name another --workdir"
            ) from None
        except OSError:
            return handle  # a file system without locks
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # removed between the two calls
