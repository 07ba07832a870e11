"""The jobs beside training under the same injuries: build, embed, export, evaluate.

Each runs undisturbed once. A round starts one of them, injures it, and starts the same command again: its end must be
the undisturbed one, with no traceback, no undocumented exit code, and no process left of what was injured.
"""

import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np

from tests.faults import injuries

CONFIG = "--config=tests/faults/config.py"
FILMS = 24
PATIENCE = 20  # seconds in which a process may notice that its parent is gone
NAMES = ("build", "embed", "export", "evaluate")


class Jobs:
    """The commands, and what each makes undisturbed."""

    def __init__(self, folder: pathlib.Path, records: pathlib.Path, run: pathlib.Path, cache: dict[str, str]) -> None:
        self.folder, self.records, self.run = folder, records, run
        self.environment = cache
        self.films = folder / "films"
        self.films.mkdir()
        rng = np.random.default_rng(0)
        for index in range(FILMS):
            noise = cv2.GaussianBlur(rng.normal(size=(64, 64)), (0, 0), 5)
            film = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            cv2.imwrite(str(self.films / f"{index}.png"), film)
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        for name in NAMES:
            started = time.monotonic()
            code, log = self.start(name, folder / "alone-jobs").wait()
            if code:
                sys.exit(f"the undisturbed {name} failed:\n{log}")
            self.seconds[name] = time.monotonic() - started
            self.expected[name] = made(name, folder / "alone-jobs")

    def start(self, name: str, place: pathlib.Path) -> "Started":
        """One start of a job that writes below `place`."""
        checkpoint = f"--config.checkpoint={self.run}"
        out = {"embed": place / "films.npz", "export": place / "export"}
        flags = {
            "build": [f"--config.data_dir={place / 'sets'}"],
            "embed": [checkpoint, f"--config.source={self.films}", f"--config.maps={place / 'maps'}"],
            "export": [checkpoint],
            "evaluate": [checkpoint, f"--config.data_dir={self.records}"],
        }[name]
        flags += [f"--config.out={out[name]}"] if name in out else []
        return Started([f"{CONFIG}:{name}", *flags, f"--workdir={place / name}"], self.environment)

    def round(self, place: pathlib.Path, volume: Any, rng: random.Random) -> tuple[str, str, int, list[str], str]:
        """One job with one injury, then to its end. Returns job, injury, its exit code, problems and log."""
        name = rng.choice(NAMES)
        injury = rng.choice([*injuries.SIGNALS, *injuries.SIGNALS, *[i for i in volume.injuries if "disk" in i]])
        if injury in injuries.SIGNALS:
            process = self.start(name, place)
            code, log = process.wait(injuries.SIGNALS[injury], rng.uniform(0, 1.1 * self.seconds[name]), rng)
        else:
            place.mkdir(parents=True, exist_ok=True)
            volume.injure(injury, {}, rng)
            process = self.start(name, place)
            code, log = process.wait()
            volume.heal()
        problems = [f"{len(left)} processes were left"] if (left := process.left()) else []
        problems += ["a traceback"] if "Traceback" in log else []
        rows = place / ".films.npz.rows"
        before = rows.stat().st_size if rows.exists() else 0
        if code:
            again, words = self.start(name, place).wait()
            log += words
            problems += [f"exit code {again} of the next start"] if again else []
            problems += ["rows were computed again"] if before > 10_000 and "resuming: " not in words else []
        if not problems and made(name, place) != self.expected[name]:
            problems.append("another end than undisturbed")
        return name, injury, code, problems, log


class Started:
    """A process with a session of its own, by which those that it starts are known."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        plain = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=injuries.ROOT,
            env=os.environ | plain | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self, numbers: list[int] = (), after: float = 0, rng: random.Random | None = None) -> tuple[int, str]:
        """Sends signals `after` seconds, Ctrl-C to all as a terminal does; the exit code and the log at the end."""

        def strike() -> None:
            for number in numbers:
                time.sleep(after if number == numbers[0] else rng.uniform(0, 1))
                if self._process.poll() is None:
                    if number == signal.SIGINT:
                        os.killpg(self._process.pid, number)
                    else:
                        self._process.send_signal(number)

        striker = threading.Thread(target=strike)
        striker.start()
        log = self._process.stderr.read()
        self._process.stderr.close()
        code = self._process.wait()
        striker.join()
        return code, log

    def left(self) -> list[int]:
        """The processes of the session that live on; those are ended."""
        end = time.monotonic() + PATIENCE
        while (alive := _of_session(self._process.pid)) and time.monotonic() < end:
            time.sleep(0.2)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        return alive


def _of_session(session: int) -> list[int]:
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(own) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def made(name: str, place: pathlib.Path) -> dict[str, str]:
    """What a job has made, as hashes by name, and every file beside it that should not be there."""
    if name == "embed":
        files = [place / "films.npz", *(place / "maps").iterdir()]
        with np.load(place / "films.npz", allow_pickle=False) as arrays:
            rows = {key: hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in arrays}
        return rows | {str(path.relative_to(place)): "" for path in files} | _rest(place)
    if name == "evaluate":
        return {"results": hashlib.sha256((place / name / "results.csv").read_bytes()).hexdigest()} | _rest(place)
    root = place / ("sets" if name == "build" else "export")
    times = ("README.md", "parity.json")
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in times]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files} | _rest(place)


def _rest(place: pathlib.Path) -> dict[str, str]:
    """Files and folders that are half made."""
    hidden = [path for path in place.rglob(".*") if path.name not in (".salt", ".lock")]
    partial = [path for path in place.rglob("*") if path.name.endswith((".partial", ".rows", ".exporting"))]
    return {f"left: {path.relative_to(place)}": "" for path in [*hidden, *partial]}


def forget(place: pathlib.Path) -> None:
    """Makes room for the next round."""
    shutil.rmtree(place, ignore_errors=True)
