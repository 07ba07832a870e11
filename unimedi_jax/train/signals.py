"""SIGTERM and SIGINT: the first asks the run to save and stop, the second stops it now."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from data.errors import RESUMABLE
from unimedi_jax import hosts
from unimedi_jax.typing import Array

ASKED = "finishing this step, saving it, then stopping; once more stops now"
NOTHING_LOST = "stopped, nothing was left to save: the same command resumes"


class SignalHandler:
    """Receives the two signals between `__enter__` and `__exit__`.

    It has a thread of its own, because Python's handlers wait for the main thread, which may be inside a compilation
    or an evaluation for minutes.
    """

    def __init__(self) -> None:
        self._asked = False
        self._safe_to_exit = True  # nothing to save: from the start to the end of the first step, and while evaluating
        self._alone = jax.process_count() == 1
        self._any_asked: Array | None = None

    def requested(self, mesh: Mesh) -> bool:
        """Whether to stop after this step. Several hosts get the same answer at the same step, if one was asked."""
        if self._alone:
            return self._asked
        # The answer of the step before, which has arrived by now: the devices never wait for this one.
        before, self._any_asked = self._any_asked, hosts.any_host(self._asked, mesh)
        return before is not None and bool(before)

    def mark_dirty(self) -> None:
        """From here on there is something to save."""
        self._safe_to_exit = False

    @contextlib.contextmanager
    def safe_to_exit(self) -> Iterator[None]:
        """For work after a save that can be repeated: a signal ends the process at once."""
        # Among several hosts none leaves by itself: the others would wait for it.
        self._safe_to_exit = self._alone
        if self._safe_to_exit and self._asked:
            _leave(RESUMABLE, NOTHING_LOST)
        yield
        self._safe_to_exit = False

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python gives signals to the main thread alone
        self._receive, self._send = socket.socketpair()
        self._send.setblocking(False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        self._wakeup = signal.set_wakeup_fd(self._send.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not hasattr(self, "_send"):
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._send.close()  # ends the thread

    def _listen(self) -> None:
        while byte := self._receive.recv(1):
            number = byte[0]
            if number not in self._before:
                continue
            if self._safe_to_exit:
                _leave(RESUMABLE, NOTHING_LOST)
            if self._asked:
                _leave(128 + number, "stopped at once: the same command resumes from the last checkpoint")
            self._asked = True
            print(f"{signal.Signals(number).name}: {ASKED}", file=sys.stderr, flush=True)
        self._receive.close()


def _leave(code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(code)  # the main thread may be where no exception reaches it
