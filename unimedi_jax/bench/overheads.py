"""What a run pays beside its steps: saving and restoring its state, starting, compiling."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import time
import types
from typing import Any

import jax
import ml_collections

from unimedi_jax import checkpoint, sharding
from unimedi_jax.bench import measure
from unimedi_jax.bench.process import environment, from_json, to_json
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train.job import build_train_step


def checkpoints(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Saves the state of `config.pretrain` once a round, then restores it."""
    settings = typed(PretrainConfig, config.pretrain)
    mesh = sharding.make_mesh(**vars(settings.mesh))
    program = build_train_step(settings, config.vocab_size, mesh)
    folder = workdir / "checkpointed"
    shutil.rmtree(folder, ignore_errors=True)
    iterator = types.SimpleNamespace(get_state=lambda: {"next": 0})
    stalls, wholes = [], []
    with jax.set_mesh(mesh), checkpoint.Checkpoints(folder, keep=1) as saved:
        state = jax.block_until_ready(program.init(jax.random.key(0)))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        for step in range(1, config.rounds + 1):
            stalls.append(measure.seconds(lambda step=step: saved.save(step, state, iterator, {})))
            wholes.append(stalls[-1] + measure.seconds(saved.wait))
        restore = measure.seconds(lambda: jax.block_until_ready(saved.restore(program.abstract).state))
    shutil.rmtree(folder)
    results = [
        measure.Result("state", "GB", (size / 1e9,)),
        measure.Result("stall: the loop waits for a save", "s", tuple(stalls)),
        measure.Result("a save to its end, in the background", "s", tuple(wholes)),
        measure.Result("restore, hashes checked", "s", (restore,)),
        measure.ratio("share of a save that the loop waits", stalls, wholes),
    ]
    measure.report("checkpoint", results, workdir)


def compiling(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Compiles the step of `config.pretrain`, and compiles it again, each time in a process of its own."""
    settings = to_json(config)
    cache = workdir / "compilations"
    first, second = [], []
    for _ in range(min(config.rounds, 3)):
        shutil.rmtree(cache, ignore_errors=True)
        first.append(_compiled(settings, cache))
        second.append(_compiled(settings, cache))
    shutil.rmtree(cache)
    results = [*_parts("step", first, "under 60"), *_parts("the same again, from the compilation cache", second, "")]
    measure.report("compile: a start, to the first step", results, workdir)


def _parts(name: str, rounds: list[dict[str, float]], goal: str) -> list[measure.Result]:
    return [
        measure.Result(f"{name}: tracing", "s", tuple(one["trace"] for one in rounds)),
        measure.Result(f"{name}: compiling", "s", tuple(one["compile"] for one in rounds), goal),
        measure.Result(f"{name}: compiling, processor time", "s", tuple(one["cpu"] for one in rounds)),
    ]


def _compiled(settings: dict[str, Any], cache: pathlib.Path) -> dict[str, float]:
    run = functools.partial(subprocess.run, env=environment({"JAX_COMPILATION_CACHE_DIR": str(cache)}), check=True)
    done = run([sys.executable, "-m", __name__], input=json.dumps(settings), stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _compile(settings: dict[str, Any]) -> dict[str, float]:
    config = from_json(settings)
    mesh = sharding.make_mesh(**vars(config.mesh))
    program = build_train_step(config, settings["vocab_size"], mesh)
    started = time.perf_counter()
    lowered = program.lower(vars(config.batch), config.input.report_length)
    traced, cpu = time.perf_counter(), time.process_time()
    with jax.set_mesh(mesh):
        lowered.compile()
    return {"trace": traced - started, "compile": time.perf_counter() - traced, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(_compile(json.loads(sys.stdin.read()))))
