"""Input and building: records and originals a second, on one core and with workers, beside PyTorch and nibabel.

Rates of one core use the processor's clock, which other work on the machine does not affect; those of workers use wall
time. The originals are synthetic, of the sizes that hospitals deliver.
"""

import csv
import dataclasses
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import ml_collections
import nibabel
import numpy as np
from scipy import ndimage

from data.errors import UserError
from data.manifest import source as manifest
from data.readers import table
from data.reports import tokenizer
from data.source import Rejected, Row
from unimedi_jax.bench import fine_records, measure
from unimedi_jax.config.pretraining import InputConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import pipeline
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.train import dataset

RECORD = {"xray": 256 * 256, "ct": 32 * 128 * 128 * 2}  # bytes of pixels
RECORDS = {"xray": 2048, "ct": 256}  # read in a round
ROWS = {"xray": 32, "ct": 8}
XRAY = (3056, 2544)  # pixels of MIMIC-CXR-JPG
CT = (512, 512, 300)  # voxels x, y, z
SPACING = (0.7, 0.7, 1.0)  # mm
VOLUME = (32, 128, 128)  # z, y, x, of a network
REPORT = "The heart is normal in size. There is a small effusion on the left. No pneumothorax. Bones are intact."


def inputs(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Records through the training pipeline, beside a DataLoader that decodes what the records were built from."""
    path = make_originals(workdir / "originals", config.films, config.scans)
    results = [row for modality in pipeline.MODALITIES for row in _input_rows(config, path, modality)]
    results += fine_records.rows(config, workdir)
    measure.report("input: from stored bytes to token batches", results, workdir)


def _input_rows(config: ml_collections.ConfigDict, path: pathlib.Path, modality: str) -> list[measure.Result]:
    name, threads, workers = NAMES[modality], config.pretrain.input.threads, config.workers

    def ours(threads: int, processes: int, clock: Callable[[], float]) -> float:
        return _rate(_batches(config, modality, threads, processes), modality, clock)

    def theirs(workers: int, clock: Callable[[], float]) -> float:
        return _decoded(_data_loader(path, modality, workers), workers, clock)

    works = {
        f"{name} from records, one core, cached": lambda: ours(0, 0, time.process_time),
        f"{name} from records, {threads} threads, cached": lambda: ours(threads, 0, time.perf_counter),
        f"{name} from records, {threads} threads, not cached": lambda: _cold(config, modality),
        f"{name} from records, {workers} processes": lambda: ours(0, workers, time.perf_counter),
    }
    if importlib.util.find_spec("torch"):
        works |= {
            f"{name} from originals, DataLoader, one core": lambda: theirs(0, time.process_time),
            f"{name} from originals, DataLoader, {workers} workers": lambda: theirs(workers, time.perf_counter),
        }
    rates = measure.interleaved(works, config.rounds)
    results = [measure.Result(row, "1/s" if "one core" in row else "1/s wall", rates[row]) for row in rates]
    one_core, in_threads, _, _, *loader = rates.values()
    megabytes = tuple(rate * RECORD[modality] / 1e6 for rate in one_core)
    results.insert(1, measure.Result(f"{name} from records, one core, cached, pixels", "MB/s", megabytes))
    if loader:
        results += [
            measure.ratio(f"{name}: one core over DataLoader's", one_core, loader[0], "at least 10"),
            measure.ratio(f"{name}: threads over DataLoader's workers", in_threads, loader[1], "at least 10"),
        ]
    return results


def build(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Originals to records on one core, checks included, beside reading and shrinking alone."""
    source = manifest.read(make_originals(workdir / "originals", config.films, config.scans))
    rows = {name: [row for row in source.rows if row.modality == name] for name in pipeline.MODALITIES}

    def convert(row: Row) -> None:
        if isinstance(done := source.convert(row), Rejected):
            raise UserError(f"an original of the bench was rejected: {done.reason}")

    def xray(row: Row) -> None:
        cv2.resize(cv2.imread(str(row.info.file), cv2.IMREAD_GRAYSCALE), (256, 256), interpolation=cv2.INTER_AREA)

    results = []
    for name, plain, what in (("xray", xray, "cv2"), ("ct", lambda row: _zoomed(row.info.file), "get_fdata + zoom")):
        works = {"ours": lambda n=name: _each(convert, rows[n]), "plain": lambda n=name, p=plain: _each(p, rows[n])}
        rates = measure.interleaved(works, config.rounds)
        results += [
            measure.Result(f"{NAMES[name]} built, one core", "1/s", rates["ours"]),
            measure.Result(f"{NAMES[name]} by {what}, one core", "1/s", rates["plain"]),
            measure.ratio(f"{NAMES[name]}: built over {what}", rates["ours"], rates["plain"]),
        ]
    size = " x ".join(map(str, XRAY)), " x ".join(map(str, CT))
    measure.report(f"build: X-rays of {size[0]} as JPEG, CTs of {size[1]} as .nii.gz", results, workdir)


def _each(work: Callable[[Row], Any], rows: list[Row]) -> float:
    """Rows per second of processor time."""
    started = time.process_time()
    for row in rows:
        work(row)
    return len(rows) / (time.process_time() - started)


def _batches(config: ml_collections.ConfigDict, modality: str, threads: int, processes: int = 0) -> Iterator:
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
    """The wall rate of threads after the kernel has dropped its pages of the files."""
    for record_set, _ in dataset.open_sets(config.data, config.data_dir):
        for path in (record_set.folder / modality).rglob("*.array_record*"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _rate(_batches(config, modality, config.pretrain.input.threads), modality, time.perf_counter)


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
            return torch.from_numpy(_zoomed(self.files[index])).float().clamp(-1000, 1000).div(1000)
        image = cv2.imread(str(self.files[index]), cv2.IMREAD_GRAYSCALE)
        scale = 256 / max(image.shape)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.pad(image, [(0, 256 - n) for n in image.shape])
        y, x = torch.randint(0, 33, (2,)).tolist()
        return torch.from_numpy(image[y : y + 224, x : x + 224]).float().div(127.5).sub(1)


def _zoomed(file: pathlib.Path) -> np.ndarray:
    """A NIfTI file at the network's size by nibabel's `get_fdata`, hence in float64, and scipy's linear zoom."""
    volume = nibabel.load(file).get_fdata().transpose(2, 1, 0)
    return ndimage.zoom(volume, [new / old for new, old in zip(VOLUME, volume.shape, strict=True)], order=1)


def _data_loader(path: pathlib.Path, modality: str, workers: int) -> Iterable:
    """Shuffled batches of the originals that a manifest names."""
    import torch
    from torch.utils import data

    rows = table.read_published(path, ("path", "modality"))
    files = [path.parent / row["path"] for row in rows if row["modality"] == modality]
    torch.set_num_threads(1)  # as in its workers: more only wait for each other
    kwargs = {"shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
    return data.DataLoader(Originals(files, modality), batch_size=min(4, len(files)), **kwargs)


def make_originals(folder: pathlib.Path, xrays: int, cts: int) -> pathlib.Path:
    """Writes JPEGs and compressed NIfTIs with their manifest, unless they exist; returns the manifest's path."""
    path = folder / f"{xrays}-{cts}.csv"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [("path", "modality", "report", "patient", "split")]
    for number in range(xrays):
        file = folder / f"film{number}.jpg"
        cv2.imwrite(str(file), _make_xray(rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
        rows.append((file.name, "xray", REPORT, f"patient{number}", "train"))
    for number in range(cts):
        file = folder / f"scan{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(_make_ct(rng), np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])), file)
        rows.append((file.name, "ct", REPORT, f"patient{xrays + number}", "train"))
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return path


def _make_xray(rng: np.random.Generator) -> np.ndarray:
    """Shades of all sizes under noise: about a megabyte as JPEG, as X-rays are."""
    coarse = [rng.random((n, n), np.float32) for n in (4, 16, 64)]
    coarse = sum(cv2.resize(x, XRAY[::-1], interpolation=cv2.INTER_CUBIC) for x in coarse)
    noise = rng.standard_normal(XRAY, np.float32)
    return np.clip(60 * coarse + 3 * noise + 30, 0, 255).astype(np.uint8)


def _make_ct(rng: np.random.Generator) -> np.ndarray:
    """A body of soft tissue with lungs, in air, and the noise of a scanner: about 60 MB compressed."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in CT)]
    volume = np.where(x**2 / 0.72 + y**2 / 0.4 < 1, 40.0, -1000.0) + np.zeros_like(z)
    for side in (-0.35, 0.35):
        volume = np.where((x - side) ** 2 / 0.06 + y**2 / 0.12 + z**2 / 0.7 < 1, -850.0, volume)
    shades = ndimage.zoom(rng.standard_normal([n // 10 for n in CT]), [n / (n // 10) for n in CT], order=1)
    noise = rng.standard_normal(CT, np.float32)
    return np.where(volume > -1000, volume + 20 * shades + 12 * noise, -1000 + np.abs(4 * noise)).astype(np.int16)
