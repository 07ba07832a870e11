"""Converts rows in an Apache Beam pipeline (Flink, Spark, Dataflow), for archives that need many machines.

TFDS's own Beam writer shuffles the examples by a hash. Here the workers only convert, and the set is written in the
source's order, so it has the same bytes as one built by data/build/pool.py.
"""

import contextlib
import io
import itertools
import json
import logging
import shlex
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam
import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from data.build import pool
from data.errors import UserError
from data.source import ConvertRow, Example, Rejected, Row, Source

LOG = logging.getLogger(__name__)
BATCH = 16  # row numbers of one file, and of one element of the pipeline: 16 MB of CTs
# What Beam's DirectRunner uses in the end, without its search of the network for a faster one.
HERE = "FnApiRunner"


@contextlib.contextmanager
def converter(source: Source, workers: int, options: str, folder: Path) -> Iterator[pool.Convert]:
    """Yields what `pool.converter` does, once a pipeline has converted all rows of the source.

    `options` are Beam's, as on a command line; without `--runner` the pipeline runs on this machine, `workers` rows at
    a time. The pipeline's workers write what they have converted to `folder`: they and this process must see it, and
    the source's files, under the same path. What an interrupted run left there is not converted again; a clean exit
    removes it. Raises UserError for a pipeline that fails.
    """
    folder = folder.resolve()  # the workers may have another working directory
    folder.mkdir(parents=True, exist_ok=True)
    # Rows by number: the batch of a row does not depend on which rows are left to convert.
    ordered = sorted(source.rows, key=lambda row: row.number)
    batches = {folder / _name(index): list(batch) for index, batch in itertools.groupby(ordered, _index)}
    missing = [(path, rows) for path, rows in batches.items() if not _holds(path, rows)]
    if missing:
        LOG.info("a Beam pipeline converts %d rows", sum(len(rows) for _, rows in missing))
        _run(missing, source.convert, workers, options)
    yield lambda rows: _stored(rows, folder)
    shutil.rmtree(folder)


class _ToFile(apache_beam.DoFn):
    """Converts a batch (path, rows) and writes its file; in a process of its own, which a faulty decoder may end."""

    def __init__(self, convert: ConvertRow) -> None:
        self._convert = convert

    def setup(self) -> None:
        self._workers = pool.Workers(self._convert, 1)

    def process(self, batch: tuple[Path, list[Row]]) -> None:
        path, rows = batch
        _write(path, self._workers.convert(rows))

    def teardown(self) -> None:
        self._workers.close()


def _run(batches: list[tuple[Path, list[Row]]], convert: ConvertRow, workers: int, options: str) -> None:
    chosen = _options(options, workers)
    try:
        with apache_beam.Pipeline(options=chosen) as pipeline:
            # Without Reshuffle all batches would be converted where they were created.
            rows = pipeline | apache_beam.Create(batches) | apache_beam.Reshuffle()
            _ = rows | "convert" >> apache_beam.ParDo(_ToFile(convert))
    except Exception as error:  # each runner raises its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the Beam pipeline failed; the same command continues from there: {reason}") from error


def _options(options: str, workers: int) -> PipelineOptions:
    try:
        with contextlib.redirect_stderr(io.StringIO()) as messages:
            chosen = PipelineOptions(shlex.split(options))
            standard, direct = chosen.view_as(StandardOptions), chosen.view_as(DirectOptions)
            known, every = (chosen.get_all_options(retain_unknown_options=unknown) for unknown in (False, True))
    except (ValueError, SystemExit) as error:  # an option without its value ends the program, as on a command line
        reason = messages.getvalue().strip().rpartition("error: ")[2] or error
        raise UserError(f"config.beam does not hold Beam's options: {reason}") from error
    unknown = ", ".join(sorted(every.keys() - known.keys()))
    if unknown and standard.runner is None:
        raise UserError(f"config.beam: {unknown} is not an option of Beam's")
    if unknown:
        LOG.warning("Beam leaves it to the runner to know: %s", unknown)
    if standard.runner is None:
        standard.runner = HERE
        direct.direct_running_mode = "multi_threading"
        direct.direct_num_workers = workers  # 0: one a core
    return chosen


def _index(row: Row) -> int:
    return row.number // BATCH


def _name(index: int) -> str:
    return f"{index}.npz"


def _write(path: Path, results: Iterable[pool.Converted]) -> None:
    """Writes all rows of a batch to one file, atomically and without pickle; writing it again gives the same file."""
    facts: dict[int, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for row, result in results:
        if isinstance(result, Rejected):
            facts[row.number] = {"reason": result.reason}
            continue
        arrays |= {f"{row.number}.{k}": value for k, value in result.items() if isinstance(value, np.ndarray)}
        facts[row.number] = {"fields": {k: v for k, v in result.items() if not isinstance(v, np.ndarray)}}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}")  # a runner may give one batch to two workers
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    partial.replace(path)


def _holds(path: Path, rows: Iterable[Row]) -> bool:
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as stored:
        return _facts(stored).keys() >= {str(row.number) for row in rows}


def _stored(rows: Iterable[Row], folder: Path) -> Iterator[pool.Converted]:
    for index, batch in itertools.groupby(rows, key=_index):
        with np.load(folder / _name(index), allow_pickle=False) as stored:
            facts = _facts(stored)
            for row in batch:
                yield row, _result(row, facts[str(row.number)], stored)


def _facts(stored: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(stored["facts"].tobytes())


def _result(row: Row, facts: dict[str, Any], stored: Mapping[str, np.ndarray]) -> Example | Rejected:
    if "reason" in facts:
        return Rejected(row.number, row.path, facts["reason"])
    prefix = f"{row.number}."
    arrays = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    return facts["fields"] | arrays
