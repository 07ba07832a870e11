"""Records as large as published models read them: a second of one core, whole and by windows."""

import itertools
import pathlib
import time
from collections.abc import Iterator

import ml_collections

from data.build import dataset
from data.phantom import source as phantom
from data.phantom.options import Options
from data.record_grid import RecordGrid
from unimedi_jax.bench import measure
from unimedi_jax.config.pretraining import InputConfig, ModelConfig
from unimedi_jax.input import pipeline, records
from unimedi_jax.input.transforms import ToSample

GRID = RecordGrid(512, (112, 224, 224))
COUNTS = {"xray": 64, "ct": 8}  # records, and what is read of them in a round
NAME = "fine"
WINDOW = (32, 128, 128)


def samplers() -> dict[str, ToSample]:
    """What is measured, by name."""
    films = ModelConfig(image_size=GRID.film_size)
    volumes = ModelConfig(volume_size=GRID.volume, volume_patch=(8, 16, 16))
    windows = ModelConfig(volume_size=WINDOW)
    size, shape, window = GRID.film_size, " x ".join(map(str, GRID.volume)), " x ".join(map(str, WINDOW))
    return {
        f"X-rays of {size} x {size}": ToSample.of("xray", None, InputConfig(crop=size), films),
        f"CTs of {shape}": ToSample.of("ct", None, InputConfig(), volumes),
        f"windows of {window} of such CTs": ToSample.of("ct", None, InputConfig(window="random"), windows),
    }


def rows(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[measure.Result]:
    """Tokens of records a second of one core, and the megabytes of records that are; the phantom is drawn once."""
    source = phantom.source(xrays=COUNTS["xray"], cts=COUNTS["ct"], options=Options(split="train"), grid=GRID)
    dataset.build(source, workdir / "records", NAME, workers=config.workers)
    record_set = records.open_set(workdir / "records", NAME)
    works = {
        f"{name} from records, one core, cached": lambda made=made: _rate(record_set, made)
        for name, made in samplers().items()
    }
    rates = measure.interleaved(works, config.rounds)
    return [measure.Result(name, "1/s", rate) for name, rate in rates.items()]


def _rate(record_set: records.RecordSet, sampler: ToSample) -> float:
    batch = {modality: int(modality == sampler.modality) for modality in pipeline.MODALITIES}
    batches: Iterator = pipeline.train(
        ((record_set, 1.0),), {sampler.modality: sampler}, batch, InputConfig(threads=0, processes=0), seed=0
    )
    next(batches)  # opens files
    count = COUNTS[sampler.modality]
    started = time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    taken = time.process_time() - started
    batches.close()
    return count / taken
