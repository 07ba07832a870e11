"""Signals: the first takes effect when a step ends, the second at once, as does the first where nothing is lost."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from unimedi_jax.train import signals

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import sys, time
from unimedi_jax.train import signals
with signals.SignalHandler() as stopping:
    if sys.argv[1] == "busy":
        stopping.mark_dirty()
    print("ready", flush=True)
    time.sleep(60) if sys.argv[2] == "asleep" else (lambda: [None for _ in iter(int, 1)])()
"""


def listen(*numbers: int, state: str, how: str = "asleep") -> tuple[int, str]:
    """Exit code and last words of a process that gets these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, state, how], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        if len(numbers) > 1:
            time.sleep(0.5)  # two at once would be one
    words = process.communicate()[1]
    return process.returncode, words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_nothing_is_lost_the_first_signal_ends_it(number):
    assert listen(number, state="idle") == (75, signals.NOTHING_LOST + "\n")


def test_the_second_signal_stops_now_whatever_the_main_thread_does():
    code, words = listen(signal.SIGINT, signal.SIGINT, state="busy", how="spinning")
    assert code == 130
    assert words.splitlines()[0] == f"SIGINT: {signals.ASKED}"
    assert "stopped at once" in words


def test_the_first_signal_asks_and_everything_is_as_before_afterwards(capfd):
    before = signal.getsignal(signal.SIGTERM)
    with signals.SignalHandler() as stopping:
        stopping.mark_dirty()
        assert not stopping.requested(None)
        os.kill(os.getpid(), signal.SIGTERM)
        while not stopping.requested(None):
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signals.ASKED in capfd.readouterr().err
