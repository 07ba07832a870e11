"""The bench job: a table and JSON lines for everything that it is asked to measure."""

import logging
import pathlib

import joblib
import ml_collections
import psutil

from data.errors import UserError
from unimedi_jax import machine
from unimedi_jax.bench import building, decoding, embedding, measure, overheads, reading, searching, step

LOG = logging.getLogger(__name__)
IDLE = 10  # per cent of the processors' time that others may take

BENCHES = {
    "step": step.run,
    "input": reading.inputs,
    "checkpoint": overheads.checkpoints,
    "compile": overheads.compiling,
    "build": building.build,
    "decode": decoding.run,
    "embed": embedding.embed,
    "start": embedding.start,
    "search": searching.run,
}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures `config.what`, one after the other; lines also go to `workdir/bench.jsonl`."""
    names = list(BENCHES) if config.what == "all" else config.what.split("+")
    if unknown := [name for name in names if name not in BENCHES]:
        raise UserError(
            f"configs/bench.py:{unknown[0]}: it measures {', '.join(BENCHES)}, all, or several as in step+input"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    busy = psutil.cpu_percent(interval=2)
    measure.report(
        f"machine: {joblib.cpu_count()} cores, {machine.processor()}",
        [measure.Result("processors that others use", "%", (busy,), f"below {IDLE}")],
        workdir,
    )
    if busy >= IDLE:
        # Threads that wait for each other suffer most, so that even interleaved measurements have wrong ratios.
        LOG.warning("other processes use this machine: measure again when it is idle; ratios of steps suffer most")
    for name in names:
        BENCHES[name](config, workdir)
    print(f"lines: {workdir / measure.LINES}")
