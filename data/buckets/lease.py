"""Who writes into a place of a bucket, where no file can be locked.

<place>/.lease            names the owner; made by one of several who try, and never written again
<place>/.lease-<token>    the owner's sign of life, renewed
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from data.buckets.store import Store
from data.errors import UserError

NAME = ".lease"
BEAT, PATIENCE = 10.0, 35.0  # seconds between renewals; without one for so long the owner counts as gone


class Lease:
    """Holds a place from `__enter__` to `__exit__`: of two runs that begin one goes on, and the other is told.

    Only what changes counts, no clock of another machine. An owner that was killed is noticed at once on its own
    machine, elsewhere after PATIENCE seconds in which nothing was renewed. One that was held up for so long, and whose
    place another has taken, finds out by `check` before it writes.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._name, self._folder = store, f"{folder}/{NAME}", folder
        self._facts = {"token": secrets.token_hex(8), "host": socket.gethostname(), "process": os.getpid()}
        self._content = json.dumps(self._facts).encode()
        self._done = threading.Event()

    def __enter__(self) -> "Lease":
        while not self._store.create(self._name, self._content):
            owner = self._store.read(self._name)
            if owner is None:
                continue  # it has just gone
            self._wait_for_its_end(owner)
            if self._store.read(self._name) == owner:
                self._store.remove(self._name)
                self._store.remove(self._sign(_parsed(owner)))
        time.sleep(0.2)  # of two that found the same owner gone, the one who removed last has it
        self.check()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        try:
            if self._is_ours():
                self._store.remove(self._name)
            self._store.remove(self._sign(self._facts))
        except UserError:
            if kind is None:
                raise

    def check(self) -> None:
        """Raises UserError: another run has taken the place."""
        if not self._is_ours():
            raise UserError(
                f"{self._where()}: another run took this place over, since this one had stopped renewing its lease: "
                "let that one finish"
            )

    def _is_ours(self) -> bool:
        return self._store.read(self._name) == self._content

    def _wait_for_its_end(self, content: bytes) -> None:
        owner = _parsed(content)
        if owner.get("host") == self._facts["host"] and not _alive(owner.get("process")):
            return
        before, end = self._store.read(self._sign(owner)), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(min(BEAT, PATIENCE) / 10)
            if self._store.read(self._name) != content:
                return  # it has ended, or somebody else was quicker
            if self._store.read(self._sign(owner)) != before:
                raise UserError(f"{self._where()}: another process trains there: wait for its end, or name another")

    def _renew(self) -> None:
        beats = 0
        while not self._done.wait(BEAT):
            beats += 1
            with contextlib.suppress(UserError):  # the next one may come through
                self._store.write(self._sign(self._facts), str(beats).encode())

    def _sign(self, owner: Mapping[str, object]) -> str:
        """The object with an owner's sign of life."""
        return f"{self._name}-{owner.get('token')}"

    def _where(self) -> str:
        return f"{self._store.scheme}://{self._folder}"


def _parsed(content: bytes) -> dict[str, object]:
    try:
        facts = json.loads(content)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _alive(process: object) -> bool:
    try:
        os.kill(int(str(process)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
