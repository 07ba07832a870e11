"""What can happen to a run: to its process, to its files between two starts, to the disk and the clock under it."""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "main.py", "--config=tests/faults/config.py"]
# A line of the log, and how long after it a signal may come: start-up, first compilation, training with saves in the
# background, evaluation, end.
MOMENTS = {
    "start-up": ("", 6.0),
    "compilation": ("new run|resuming", 1.5),
    "training": ("step 4 of|step 7 of|step 11 of", 0.3),
    "a save": ("writing a checkpoint", 0.4),
    "the first evaluation": ("step 5 of", 1.0),
    "evaluation": ("step 10 of", 1.0),
    "the end": ("evaluating on held-out", 3.0),
}


def free_port() -> int:
    """Of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    records: pathlib.Path, workdir: pathlib.Path, *flags: str, stderr: Any = subprocess.PIPE, **environment: str
) -> subprocess.Popen:
    """The run's one command; its lines come on stderr."""
    known = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # whatever this process simulates
    return subprocess.Popen(
        [*COMMAND, f"--config.data_dir={records}", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=known | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
    )


def watch(process: subprocess.Popen, moment: str, numbers: list[int], rng: random.Random) -> tuple[int, str]:
    """Sends signals at a moment of a run, if it comes; waits for the end. Returns the exit code and the log."""
    words, longest = MOMENTS[moment]
    alternatives = words.split("|")
    awaited = [rng.choice(alternatives)] if moment != "compilation" else alternatives
    log: list[str] = []

    def strike() -> None:
        for number in numbers:
            time.sleep(rng.uniform(0, longest))
            if process.poll() is None:
                process.send_signal(number)

    striker = threading.Thread(target=strike)
    if not words:
        striker.start()
    for line in process.stderr:
        log.append(line)
        if striker.ident is None and any(word in line for word in awaited):
            striker.start()
    process.stderr.close()
    code = process.wait()
    if striker.ident is not None:
        striker.join()
    return code, "".join(log)


SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
}


def newest(workdir: pathlib.Path) -> pathlib.Path | None:
    """The newest checkpoint, where there are at least two: of an only one nothing could be gone back to."""
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal())
    return workdir / "checkpoints" / str(steps[-1]) if len(steps) > 1 else None


def flip(path: pathlib.Path, rng: random.Random) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: pathlib.Path, rng: random.Random) -> None:
    """The end of a file."""
    path.write_bytes(path.read_bytes()[: rng.randrange(max(path.stat().st_size, 1))])


def empty(path: pathlib.Path, rng: random.Random) -> None:
    """All of a file but its name."""
    path.write_bytes(b"")


def drop(path: pathlib.Path, rng: random.Random) -> None:
    """The file."""
    path.unlink()


FILE_INJURIES = {f"{f.__name__} a file": f for f in (flip, cut, empty, drop)}


def injure_checkpoint(workdir: pathlib.Path, kind: str, rng: random.Random) -> str:
    """Does one to a random file of the newest checkpoint; says which."""
    folder = newest(workdir)
    if folder is None:
        return "nothing to injure yet"
    if kind == "an item is missing":
        item = rng.choice(["state", "data", "meta"])
        shutil.rmtree(folder / item)
        return f"{folder.name}/{item}"
    if kind == "an empty step folder":
        (folder.parent / str(int(folder.name) + 1)).mkdir()
        return str(int(folder.name) + 1)
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    FILE_INJURIES[kind](path, rng)
    return str(path.relative_to(folder.parent))


def injure_records(records: pathlib.Path, kind: str, rng: random.Random) -> str:
    """Does one to the training records of a set."""
    path = rng.choice(sorted(records.rglob("*train.array_record*")))
    FILE_INJURIES[kind](path, rng)
    return path.name


CHECKPOINT_INJURIES = (*FILE_INJURIES, "an item is missing", "an empty step folder")
