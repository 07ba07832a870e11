"""Where rows are converted: in processes of this machine, or in an Apache Beam pipeline."""

import importlib.util
from contextlib import AbstractContextManager
from pathlib import Path

from data import errors
from data.build import pool
from data.source import Source

RUNNERS = ("pool", "beam")


def opened(source: Source, workers: int, beam: str | None, folder: Path) -> AbstractContextManager[pool.Convert]:
    """`pool.opened`, or with the options of a pipeline `beam.opened`, which keeps its files in `folder`."""
    if beam is None:
        return pool.opened(source, workers)
    from data.build import beam as pipeline  # an optional requirement

    return pipeline.opened(source, workers, beam, folder)


def options(runner: str, beam: str) -> str | None:
    """`config.beam` where `config.runner` wants a pipeline, else None.

    Raises UserError for an unknown runner, and where Apache Beam is wanted and not installed.
    """
    if runner not in RUNNERS:
        raise errors.UserError(f"config.runner is '{runner}': {' or '.join(RUNNERS)}")
    if runner == "beam" and importlib.util.find_spec("apache_beam") is None:
        raise errors.UserError(
            "config.runner=beam needs Apache Beam, which is not installed: pip install -r requirements-beam.txt"
        )
    return beam if runner == "beam" else None
