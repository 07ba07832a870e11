"""The bench job: a table and JSON lines for each of the things it is asked to measure."""

import pathlib

import ml_collections

from unimedi_jax.bench import reading, saving, starting, step
from unimedi_jax.errors import UserError

BENCHES = {
    "step": step.run,
    "input": reading.inputs,
    "checkpoint": saving.run,
    "compile": starting.run,
    "build": reading.build,
}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures `config.what`, one after the other; lines go to `workdir/bench.jsonl` too."""
    wanted = list(BENCHES) if config.what == "all" else config.what.split("+")
    if unknown := [name for name in wanted if name not in BENCHES]:
        raise UserError(
            f"configs/bench.py:{unknown[0]}: it measures {', '.join(BENCHES)}, all, or several as in step+input"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        BENCHES[name](config, workdir)
    print(f"lines: {workdir / 'bench.jsonl'}")
