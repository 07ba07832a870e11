"""Embedding: files to parquet beside plain PyTorch doing the same, and what the first embedding of a process takes."""

import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import ml_collections

from data.reports import tokenizer
from unimedi_jax import sharding
from unimedi_jax.bench import measure, originals
from unimedi_jax.bench.process import environment
from unimedi_jax.export import export
from unimedi_jax.inference import embed as embedding
from unimedi_jax.inference import pretrained
from unimedi_jax.train import state

ROWS = 8  # a batch
FIRST = """
import sys, time
started = time.perf_counter()
import unimedi_jax
unimedi_jax.load(sys.argv[1]).embed(sys.argv[2])
print(time.perf_counter() - started)
"""


def embed(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Films through the network of `config.pretrain`, untrained: what it computes is the same."""
    films = sorted(originals.make(workdir / "originals", config.films, config.scans).parent.glob("film*.jpg"))
    folder = workdir / "films"
    folder.mkdir(exist_ok=True)
    for film in films:
        (folder / film.name).unlink(missing_ok=True)
        (folder / film.name).hardlink_to(film)
    trained = _network(config, workdir)
    model = embedding.Model(trained, trained.embedder(rows=ROWS))

    def run(out: pathlib.Path) -> None:
        model.embed(folder).to_parquet(out)

    works = {"ours": functools.partial(_rate, run, workdir / "ours.parquet", len(films))}
    if importlib.util.find_spec("torch"):
        from unimedi_jax.bench.embedding_twin import Embedding

        other = Embedding(films, config.pretrain.model.to_dict(), ROWS, config.workers)
        works["PyTorch"] = functools.partial(_rate, other.run, workdir / "torch.parquet", len(films))
    for work in works.values():
        work()  # compiles, starts workers
    rates = measure.interleaved(works, config.rounds)
    results = [measure.Result(f"X-rays embedded, {name}", "1/s wall", values) for name, values in rates.items()]
    if "PyTorch" in rates:
        results.append(measure.ratio("embedding over PyTorch", rates["ours"], rates["PyTorch"], "at least 1.5"))
    measure.report(f"embed: {len(films)} JPEG films of {originals.XRAY[0]} x {originals.XRAY[1]}", results, workdir)


def start(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """From `import unimedi_jax` to the first embedding of one film in a new process; and `--help`."""
    film = originals.make(workdir / "originals", config.films, config.scans).parent / "film0.jpg"
    exported = workdir / "exported"
    if not exported.exists():
        export.write(_network(config, workdir), exported)
    command = [sys.executable, "-c", FIRST, str(exported), str(film)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir / "compilations")}
    run = functools.partial(subprocess.run, env=environment(cache), check=True, capture_output=True, text=True)
    run(command)  # fills the cache
    firsts = tuple(float(run(command).stdout.split()[-1]) for _ in range(config.rounds))
    help_ = [sys.executable, "-c", "from unimedi_jax import cli; cli.main()", "--help"]
    show = functools.partial(subprocess.run, help_, env=environment(), stdout=subprocess.DEVNULL)
    helps = tuple(measure.seconds(show) for _ in range(config.rounds))
    results = [
        measure.Result("load to the first embedding, programs kept", "s", firsts, "below 5"),
        measure.Result("main.py --help", "s", helps, "below 0.2"),
    ]
    measure.report("start", results, workdir)


def _network(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pretrained.Pretrained:
    settings = json.loads(config.pretrain.to_json_best_effort())
    words = workdir / "tokenizer"
    if not words.exists():
        tokenizer.save(tokenizer.train([originals.REPORT] * 2), words)
    reports = tokenizer.load(words)
    model = pretrained.build(settings, len(reports))
    variables = jax.jit(lambda key: state.init_variables(model, key)[0])(jax.random.key(0))
    mesh = sharding.make_mesh()
    placed = sharding.put_replicated({"batch_stats": {}, **variables}, mesh)
    return pretrained.Pretrained(workdir, model, placed, mesh, reports, settings, {}, {}, "student", 0)


def _rate(run: Callable[[pathlib.Path], None], out: pathlib.Path, count: int) -> float:
    """Films per second of wall time: both sides use all cores."""
    started = time.perf_counter()
    run(out)
    return count / (time.perf_counter() - started)
