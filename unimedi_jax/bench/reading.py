"""Input: records and originals a second, on one core and with workers, beside PyTorch.

Rates of one core use the processor's clock, which other work on the machine does not affect; those of workers use wall
time.
"""

import dataclasses
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import ml_collections
import numpy as np

from data.readers import table
from data.reports import tokenizer
from unimedi_jax.bench import fine_records, measure, originals
from unimedi_jax.config.pretraining import InputConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import pipeline, tokenised, transforms
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.train import dataset

RECORD = {"xray": 256 * 256, "ct": 32 * 128 * 128 * 2}  # bytes of pixels
RECORDS = {"xray": 2048, "ct": 256}  # read in a round
ROWS = {"xray": 32, "ct": 8}


def inputs(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Records through the training pipeline, beside a DataLoader that decodes what the records were built from."""
    path = originals.make(workdir / "originals", config.films, config.scans)
    results = [row for modality in pipeline.MODALITIES for row in _input_rows(config, path, modality)]
    results += fine_records.rows(config, workdir)
    measure.report("input: from stored bytes to token batches", results, workdir)


def _input_rows(config: ml_collections.ConfigDict, path: pathlib.Path, modality: str) -> list[measure.Result]:
    name, threads, workers = NAMES[modality], config.pretrain.input.threads, config.workers

    known = _samplers(config)  # they have seen every report once the first round is over

    def ours(threads: int, processes: int, clock: Callable[[], float]) -> float:
        return _rate(_batches(config, modality, known, threads, processes), modality, clock)

    def anew() -> float:
        return _rate(_batches(config, modality, _samplers(config, keep=0)), modality, time.process_time)

    def theirs(workers: int, clock: Callable[[], float]) -> float:
        return _decoded(_data_loader(path, modality, workers), workers, clock)

    works = {
        f"{name} from records, one core, cached": lambda: ours(0, 0, time.process_time),
        f"{name} from records, {threads} threads, cached": lambda: ours(threads, 0, time.perf_counter),
        f"{name} from records, {threads} threads, not cached": lambda: _cold(config, modality, known),
        f"{name} from records, {workers} processes": lambda: ours(0, workers, time.perf_counter),
        f"{name} from records, one core, each report tokenised anew": anew,
    }
    ours(0, 0, time.process_time)  # the first epoch
    if importlib.util.find_spec("torch"):
        works |= {
            f"{name} from originals, DataLoader, one core": lambda: theirs(0, time.process_time),
            f"{name} from originals, DataLoader, {workers} workers": lambda: theirs(workers, time.perf_counter),
        }
    rates = measure.interleaved(works, config.rounds)
    results = [measure.Result(row, "1/s" if "one core" in row else "1/s wall", rates[row]) for row in rates]
    one_core, in_threads, _, _, anew_each, *loader = rates.values()
    megabytes = tuple(rate * RECORD[modality] / 1e6 for rate in one_core)
    results.insert(1, measure.Result(f"{name} from records, one core, cached, pixels", "MB/s", megabytes))
    goal = "at least 2" if modality == "xray" else ""
    results.append(measure.ratio(f"{name}: one core over tokenising anew", one_core, anew_each, goal))
    if loader:
        results += [
            measure.ratio(f"{name}: one core over DataLoader's", one_core, loader[0], "at least 10"),
            measure.ratio(f"{name}: threads over DataLoader's workers", in_threads, loader[1], "at least 10"),
        ]
    return results


def _samplers(config: ml_collections.ConfigDict, keep: int = tokenised.MOST_BYTES) -> dict[str, transforms.ToSample]:
    """By modality; `keep` bytes of tokenised reports are kept."""
    record_set = dataset.open_sets(config.data, config.data_dir)[0][0]
    reports = tokenizer.load(record_set.folder / "tokenizer")
    samplers = dataset.samplers(typed(PretrainConfig, config.pretrain), reports)
    return {name: sampler.keeping(keep) for name, sampler in samplers.items()}


def _batches(
    config: ml_collections.ConfigDict,
    modality: str,
    samplers: dict[str, transforms.ToSample],
    threads: int = 0,
    processes: int = 0,
) -> Iterator:
    sets = dataset.open_sets(config.data, config.data_dir)
    rows = {name: ROWS[name] if name == modality else 0 for name in pipeline.MODALITIES}
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


def _cold(config: ml_collections.ConfigDict, modality: str, samplers: dict[str, transforms.ToSample]) -> float:
    """The wall rate of threads after the kernel has dropped its pages of the files."""
    for record_set, _ in dataset.open_sets(config.data, config.data_dir):
        for path in (record_set.folder / modality).rglob("*.array_record*"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _rate(_batches(config, modality, samplers, config.pretrain.input.threads), modality, time.perf_counter)


def _decoded(batches: Iterable, workers: int, clock: Callable[[], float]) -> float:
    if workers:
        sum(1 for _ in batches)  # an epoch in which they start
    started = clock()
    count = sum(len(batch) for batch in batches)
    return count / (clock() - started)


@dataclasses.dataclass(frozen=True)
class Originals:
    """The usual PyTorch data set: decodes and normalises the originals, sample by sample."""

    files: list[pathlib.Path]
    modality: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import torch

        if self.modality == "ct":
            return torch.from_numpy(originals.zoomed(self.files[index])).float().clamp(-1000, 1000).div(1000)
        image = cv2.imread(str(self.files[index]), cv2.IMREAD_GRAYSCALE)
        scale = 256 / max(image.shape)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.pad(image, [(0, 256 - n) for n in image.shape])
        y, x = torch.randint(0, 33, (2,)).tolist()
        return torch.from_numpy(image[y : y + 224, x : x + 224]).float().div(127.5).sub(1)


def _data_loader(path: pathlib.Path, modality: str, workers: int) -> Iterable:
    """Shuffled batches of the originals that a manifest names."""
    import torch
    from torch.utils import data

    rows = table.read_published(path, ("path", "modality"))
    files = [path.parent / row["path"] for row in rows if row["modality"] == modality]
    torch.set_num_threads(1)  # as in its workers: more only wait for each other
    kwargs = {"shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
    return data.DataLoader(Originals(files, modality), batch_size=min(4, len(files)), **kwargs)
