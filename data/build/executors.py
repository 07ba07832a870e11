"""Where rows are converted: in processes of this machine, or in an Apache Beam pipeline."""

import importlib.util
from contextlib import AbstractContextManager
from pathlib import Path

from data.build import pool
from data.errors import UserError
from data.source import Source

RUNNERS = ("pool", "beam")


def converter(source: Source, workers: int, beam: str | None, folder: Path) -> AbstractContextManager[pool.Convert]:
    """`pool.converter`, or with options of a pipeline `beam.converter`, which keeps its files in `folder`."""
    if beam is None:
        return pool.converter(source, workers)
    from data.build import beam as pipeline  # an optional requirement

    return pipeline.converter(source, workers, beam, folder)


def options(runner: str, beam: str) -> str | None:
    """`config.beam` if `config.runner` is "beam", else None.

    Raises UserError for an unknown runner, for options of a pipeline that none would use, and if Apache Beam is needed
    and not installed.
    """
    if runner not in RUNNERS:
        raise UserError(f"config.runner is '{runner}': {' or '.join(RUNNERS)}")
    if beam and runner != "beam":
        raise UserError(
            f"config.beam is set, but config.runner is '{runner}': add --config.runner=beam, or leave it out"
        )
    if runner == "beam" and importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "config.runner=beam needs Apache Beam, which is not installed: pip install -r requirements-beam.txt"
        )
    return beam if runner == "beam" else None
