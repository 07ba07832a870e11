"""Input and building: records and originals a second, a core and with workers, beside PyTorch's and nibabel's ways.

Rates of one core are by the processor's clock, which other work on the machine does not touch; those of workers are by
the wall's.
"""

import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import cv2
import ml_collections

from data.errors import UserError
from data.manifest import source as manifest
from data.reports import tokenizer
from data.source import Rejected, Row
from unimedi_jax.bench import measure, originals
from unimedi_jax.config.pretraining import InputConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import pipeline
from unimedi_jax.train import dataset

RECORD = {"xray": 256 * 256, "ct": 32 * 128 * 128 * 2}  # bytes of pixels
RECORDS = {"xray": 2048, "ct": 256}  # read in a round
ROWS = {"xray": 32, "ct": 8}
NAMES = {"xray": "X-rays", "ct": "CTs"}


def inputs(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Records through the training pipeline, next to a DataLoader that decodes what the records were built from."""
    csv_path = originals.make(workdir / "originals", config.films, config.scans)
    threads, results = config.pretrain.input.threads, []
    for modality in pipeline.MODALITIES:
        name = NAMES[modality]
        works = {
            "ours": lambda m=modality: _rate(_ours(config, m, 0), m, time.process_time),
            "threads": lambda m=modality: _rate(_ours(config, m, threads), m, time.perf_counter),
            "processes": lambda m=modality: _rate(_ours(config, m, 0, config.workers), m, time.perf_counter),
            "cold": lambda m=modality: _cold(config, m),
        }
        if importlib.util.find_spec("torch"):
            from unimedi_jax.bench import loading

            def theirs(workers: int, clock: Callable[[], float], m: str = modality) -> float:
                count = config.films if m == "xray" else config.scans
                return _decoded(loading.batches(csv_path, m, min(4, count), workers), workers, clock)

            works["theirs"] = lambda t=theirs: t(0, time.process_time)
            works["theirs, workers"] = lambda t=theirs: t(config.workers, time.perf_counter)
        found = measure.interleaved(works, config.rounds)
        mega = tuple(rate * RECORD[modality] / 1e6 for rate in found["ours"])
        results += [
            measure.Result(f"{name} from records, one core, cached", "1/s", found["ours"]),
            measure.Result(f"{name} from records, one core, cached, pixels", "MB/s", mega),
            measure.Result(f"{name} from records, {threads} threads, cached", "1/s wall", found["threads"]),
            measure.Result(f"{name} from records, {threads} threads, not cached", "1/s wall", found["cold"]),
            measure.Result(f"{name} from records, {config.workers} processes", "1/s wall", found["processes"]),
        ]
        if "theirs" in found:
            workers = f"{config.workers} workers"
            results += [
                measure.Result(f"{name} from originals, DataLoader, one core", "1/s", found["theirs"]),
                measure.Result(f"{name} from originals, DataLoader, {workers}", "1/s wall", found["theirs, workers"]),
                measure.ratio(f"{name}: one core over DataLoader's", found["ours"], found["theirs"], "at least 10"),
                measure.ratio(
                    f"{name}: threads over DataLoader's workers",
                    found["threads"],
                    found["theirs, workers"],
                    "at least 10",
                ),
            ]
    measure.report("input: from stored bytes to token batches", results, workdir)


def build(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Originals to records on one core, checks included, next to reading and shrinking alone."""
    csv_path = originals.make(workdir / "originals", config.films, config.scans)
    source = manifest.read(csv_path)
    rows = {name: [row for row in source.rows if row.modality == name] for name in pipeline.MODALITIES}

    def convert(row: Row) -> None:
        if isinstance(done := source.convert(row), Rejected):
            raise UserError(f"an original of the bench was rejected: {done.reason}")

    def film(row: Row) -> None:
        cv2.resize(cv2.imread(str(row.info.file), cv2.IMREAD_GRAYSCALE), (256, 256), interpolation=cv2.INTER_AREA)

    def scan(row: Row) -> None:
        from unimedi_jax.bench import loading

        loading.shrunk(row.info.file)

    results = []
    for name, plain, what in (("xray", film, "cv2"), ("ct", scan, "get_fdata + zoom")):
        works = {"ours": lambda n=name: _each(convert, rows[n]), "plain": lambda n=name, p=plain: _each(p, rows[n])}
        found = measure.interleaved(works, config.rounds)
        results += [
            measure.Result(f"{NAMES[name]} built, one core", "1/s", found["ours"]),
            measure.Result(f"{NAMES[name]} by {what}, one core", "1/s", found["plain"]),
            measure.ratio(f"{NAMES[name]}: built over {what}", found["ours"], found["plain"]),
        ]
    size = " x ".join(map(str, originals.FILM)), " x ".join(map(str, originals.SCAN))
    measure.report(f"build: films of {size[0]} as JPEG, scans of {size[1]} as .nii.gz", results, workdir)


def _each(work: Callable[[Row], None], rows: list[Row]) -> float:
    """Rows per second of processor time."""
    started = time.process_time()
    for row in rows:
        work(row)
    return len(rows) / (time.process_time() - started)


def _ours(config: ml_collections.ConfigDict, modality: str, threads: int, processes: int = 0) -> Iterator:
    sets = dataset.open_sets(config.data, config.data_dir)
    reports = tokenizer.load(sets[0][0].folder / "tokenizer")
    rows = {name: ROWS[name] if name == modality else 0 for name in pipeline.MODALITIES}
    samplers = dataset.samplers(typed(PretrainConfig, config.pretrain), reports)
    return pipeline.train(sets, samplers, rows, InputConfig(threads=threads, processes=processes), seed=0)


def _rate(batches: Iterator, modality: str, clock: Callable[[], float]) -> float:
    next(batches)  # opens files, starts threads
    count = RECORDS[modality] // ROWS[modality]
    started = clock()
    for _ in range(count):
        next(batches)
    taken = clock() - started
    batches.close()
    return count * ROWS[modality] / taken


def _cold(config: ml_collections.ConfigDict, modality: str) -> float:
    """The same after the kernel has dropped its pages of the files."""
    for found, _ in dataset.open_sets(config.data, config.data_dir):
        for path in (found.folder / modality).rglob("*.array_record*"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _rate(_ours(config, modality, config.pretrain.input.threads), modality, time.perf_counter)


def _decoded(batches: Iterable, workers: int, clock: Callable[[], float]) -> float:
    if workers:
        sum(1 for _ in batches)  # an epoch in which they start
    started = clock()
    seen = sum(len(batch) for batch in batches)
    return seen / (clock() - started)
