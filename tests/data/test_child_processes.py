"""Workers of a build: none outlives it, however it ends, and Ctrl-C is answered in one line."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from data import child_processes

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 90  # seconds on a machine with other work


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    ours = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in ours.read_text().split()] if ours.exists() else []


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.fixture
def interruptible():
    """What runs in a shell's background ignores Ctrl-C, and so do its children: here they are to answer it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_build(tmp_path, number):
    command = [sys.executable, "main.py", "--config=configs/build.py:phantom", f"--config.data_dir={tmp_path / 'sets'}"]
    settings = ["--config.xrays=40000", "--config.cts=0", "--config.workers=2", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(
        [*command, *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            parts = tmp_path / "sets" / ".phantom.building" / "parts"
            assert until(lambda: any(parts.rglob("*train*")) or process.poll() is not None)
            started = children(process.pid)
            assert len(started) >= 3  # two workers, and Python's tracker of resources
            if number == signal.SIGINT:  # a terminal sends it to all
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            _, words = process.communicate(timeout=PATIENCE)
            assert until(lambda: not any(map(alive, started)))
        finally:
            process.kill()
    assert "Traceback" not in words
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert words.splitlines()[-1].startswith("stopped: ")
        assert [line for line in words.splitlines() if "rows, " not in line] == words.splitlines()[-1:]


def test_two_threads_may_start_the_tracker(monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    monkeypatch.setattr(child_processes.resource_tracker, "ensure_running", lambda: os.environ.pop("PYTHONWARNINGS"))
    child_processes.start_tracker()
    assert "PYTHONWARNINGS" not in os.environ
