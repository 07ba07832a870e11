"""What passes before the first step: --help, compiling the step, and compiling it a second time."""

import json
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import jax
import ml_collections

from unimedi_jax import compile_cache, sharding
from unimedi_jax.bench import measure
from unimedi_jax.bench.settings import plain, restored
from unimedi_jax.train.job import build_train_step

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Each in a process of its own; the step is that of `config.pretrain`."""
    settings = plain(config)
    helps = tuple(measure.seconds(_help) for _ in range(config.rounds))
    cache = workdir / "compilations"
    first, second = [], []
    for _ in range(min(config.rounds, 3)):
        shutil.rmtree(cache, ignore_errors=True)
        first.append(_compiled(settings, cache))
        second.append(_compiled(settings, cache))
    shutil.rmtree(cache)
    results = [
        measure.Result("main.py --help", "s", helps, "under 2"),
        *_parts("step", first, "under 60"),
        *_parts("the same again, from the compilation cache", second, ""),
    ]
    measure.report("compile: a start, to the first step", results, workdir)


def _parts(name: str, said: list[dict[str, float]], goal: str) -> list[measure.Result]:
    return [
        measure.Result(f"{name}: tracing", "s", tuple(one["trace"] for one in said)),
        measure.Result(f"{name}: compiling", "s", tuple(one["compile"] for one in said), goal),
        measure.Result(f"{name}: compiling, processor time", "s", tuple(one["cpu"] for one in said)),
    ]


def _help() -> None:
    subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL)


def _compiled(settings: dict[str, Any], cache: pathlib.Path) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, str(cache)]
    done = subprocess.run(command, input=json.dumps(settings), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _compile(settings: dict[str, Any], cache: str) -> dict[str, float]:
    compile_cache.enable(cache)
    config = restored(settings)
    mesh = sharding.make_mesh(**vars(config.mesh))
    program = build_train_step(config, settings["vocab_size"], mesh)
    started = time.perf_counter()
    lowered = program.lower(vars(config.batch), config.input.report_length)
    traced, cpu = time.perf_counter(), time.process_time()
    with jax.set_mesh(mesh):
        lowered.compile()
        return {"trace": traced - started, "compile": time.perf_counter() - traced, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(_compile(json.loads(sys.stdin.read()), sys.argv[1])))
