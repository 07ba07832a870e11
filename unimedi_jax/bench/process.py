"""One side of a comparison in a process of its own, so that its memory and threads are its alone. No JAX here.

    python -m unimedi_jax.bench.process unimedi_jax.bench.twin < settings

Settings are one line of JSON. Answers are lines of JSON: the `facts` of what the module's `make(settings)` returns,
then the seconds of every step asked for, at the end the peak memory while stepping: a GPU's where there is one, else
the process's.
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from data.errors import UserError
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent  # what the packages lie in
OTHER_SETTINGS = ("vocab_size", "bfloat16", "compiled")  # of a measured process, beside those of `config.pretrain`
TEXTS = {"report_halves": "other", "negation": "negated"}  # token sequences that settings of the objective add


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a process that has these packages, whatever folder this one was started in."""
    variables = {**os.environ, **(changes or {})}
    paths = [str(ROOT), *filter(None, [variables.get("PYTHONPATH")])]
    return variables | {"PYTHONPATH": os.pathsep.join(paths)}


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """`config.pretrain` of a bench's config as plain JSON, with its `vocab_size`."""
    return json.loads(config.pretrain.to_json_best_effort()) | {"vocab_size": config.vocab_size}


def from_json(settings: dict[str, Any]) -> PretrainConfig:
    """The settings of pre-training again."""
    return typed(PretrainConfig, {name: value for name, value in settings.items() if name not in OTHER_SETTINGS})


def random_batch(settings: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """A batch in the pipeline's format, the same for both sides; reports, and halves of them, fill their length."""
    rng = np.random.default_rng(0)
    model, length = settings["model"], settings["input"]["report_length"]
    texts = ["text", *(text for name, text in TEXTS.items() if settings["objective"].get(name))]
    image = ((model["image_size"],) * 2, model["image_patch"], np.uint8, 0, 256)
    volume = (*from_json(settings).model.ct_input, np.int16, -1000, 1000)
    batch = {}
    for name, (size, patch, dtype, low, high) in {"xray": image, "ct": volume}.items():
        rows = settings["batch"][name]
        tokens = math.prod(size) // math.prod(patch)
        if rows:
            batch[name] = {"tokens": rng.integers(low, high, (rows, tokens, math.prod(patch))).astype(dtype)}
            for text in texts:
                batch[name][text] = rng.integers(0, settings["vocab_size"], (rows, length)).astype(np.int32)
                batch[name][f"{text}_mask"] = np.ones((rows, length), bool)
            if name == "xray" and model["lateral_type"]:
                batch[name]["lateral"] = rng.integers(0, 2, rows).astype(bool)
    return batch


class Process:
    """The near end; `facts` come from the far end."""

    def __init__(self, module: str, settings: dict[str, Any], changes: Mapping[str, str] | None = None) -> None:
        command, pipe = [sys.executable, "-m", __name__, module], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment(changes))
        self.facts = self._ask(json.dumps(settings))

    def step(self) -> float:
        """Seconds of one step."""
        return self._ask("step")["seconds"]

    def peak(self) -> float:
        """Bytes: of a device's memory the most in use; on a CPU the most resident since the first step."""
        return self._ask("peak")["bytes"]

    def _ask(self, line: str) -> dict[str, Any]:
        pipe = self._process
        with contextlib.suppress(BrokenPipeError):  # it has ended: its error is on stderr
            pipe.stdin.write(line + "\n")
            pipe.stdin.flush()
        if not (answer := pipe.stdout.readline()):
            self.close()
            raise UserError(f"a measured process ended with exit code {pipe.returncode}: see above")
        return json.loads(answer)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(module: str) -> None:
    """The far end."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print
    side = importlib.import_module(module).make(json.loads(sys.stdin.readline()))

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    side.step()  # compiles, allocates
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compiling has left behind
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    answer(side.facts)
    for line in sys.stdin:
        if line == "peak\n":
            status = pathlib.Path("/proc/self/status").read_text()
            resident = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
            answer({"bytes": side.peak() or resident})
            continue
        started = time.perf_counter()
        side.step()
        answer({"seconds": time.perf_counter() - started})


if __name__ == "__main__":
    serve(sys.argv[1])
