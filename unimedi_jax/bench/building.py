"""Building: originals to records on one core, checks included, beside reading and shrinking alone.

Rates are by the processor's clock, and each is set beside the usual libraries' in the same round.
"""

import functools
import importlib.util
import pathlib
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import ml_collections
import numpy as np
import pydicom
from threadpoolctl import threadpool_limits

from data.build import heap
from data.errors import UserError
from data.manifest import source as manifest
from data.phantom import source as phantom
from data.readers import geometry, reduced, volumes, xrays
from data.source import Rejected, Row
from unimedi_jax.bench import measure, originals
from unimedi_jax.input.pipeline import NAMES

LISTED = 5000  # rows of a manifest
LONG_REPORT = " ".join([originals.REPORT] * 6)[:590]
PHANTOM = {"xray": 8, "ct": 4}  # cases that are drawn in a round
SIZE = geometry.XRAY_SIZE


def build(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Every kind of original, a long manifest and the phantom."""
    folder, threads = workdir / "originals", cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):  # as in a worker: threads that wait for each other take processor time, too
            results = [*_own_data(config, folder), *_deep_films(config, folder), *_series(config, folder)]
            results += [*_listing(config, folder), *_phantom(config)]
    finally:
        cv2.setNumThreads(threads)
    size = " x ".join(map(str, originals.XRAY)), " x ".join(map(str, originals.CT))
    measure.report(f"build: X-rays of {size[0]}, CTs of {size[1]}, one core", results, workdir)


def _own_data(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[measure.Result]:
    """JPEGs, exact and at a reduced scale, and .nii.gz of a manifest."""
    source = manifest.read(originals.make(folder, config.films, config.scans))

    def convert(row: Row) -> None:
        if isinstance(done := source.convert(row), Rejected):
            raise UserError(f"an original of the bench was rejected: {done.reason}")

    def plain(row: Row) -> None:
        _area(cv2.imread(str(row.info.file), cv2.IMREAD_GRAYSCALE))

    quick = functools.partial(reduced.under, convert, reduced.TIMES * SIZE)
    films, scans = ([row for row in source.rows if row.modality == name] for name in ("xray", "ct"))
    return [
        *_beside(config, "X-rays in JPEG, reduced", quick, films, ("cv2", plain), "at least 3"),
        *_beside(config, "X-rays in JPEG, exact", convert, films, ("cv2", plain)),
        *_beside(
            config,
            "CTs in .nii.gz",
            convert,
            scans,
            ("get_fdata + zoom", lambda row: originals.zoomed(row.info.file)),
            "at least 3",
        ),
    ]


def _deep_films(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[measure.Result]:
    png, dicom = originals.make_deep(folder)

    def by_pydicom(path: pathlib.Path) -> None:
        """What a film's grey values need at least: pixels, percentiles, 8 bits, area means."""
        pixels = pydicom.dcmread(path).pixel_array.astype(np.float32)
        low, high = np.percentile(pixels, (0.5, 99.5))
        _area(np.clip((pixels - low) * np.float32(255 / (high - low)), 0, 255).astype(np.uint8))

    by_cv2 = ("cv2", lambda path: _area(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    return [
        *_beside(config, "X-rays in PNG of 16 bits", xrays.read_xray, [png] * 4, by_cv2, "at least 1.3"),
        *_beside(
            config, "X-rays in DICOM", xrays.read_xray, [dicom] * 4, ("pydicom + numpy", by_pydicom), "at least 1.3"
        ),
    ]


def _series(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[measure.Result]:
    if not importlib.util.find_spec("SimpleITK"):
        return []
    series = originals.make_series(folder)
    return _beside(config, "CTs in DICOM", volumes.read_volume, [series], ("SimpleITK", _by_simpleitk), "at least 2")


def _by_simpleitk(folder: pathlib.Path) -> None:
    """The series reader and a linear resampling onto the network's grid."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    size = originals.VOLUME[::-1]
    spacing = [old * n / new for old, n, new in zip(image.GetSpacing(), image.GetSize(), size, strict=True)]
    where = (image.GetOrigin(), spacing, image.GetDirection())
    SimpleITK.Resample(image, size, SimpleITK.Transform(), SimpleITK.sitkLinear, *where, -1024.0)


def _listing(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[measure.Result]:
    """A long manifest: how fast it is listed, and what a million rows would keep in memory."""
    path = folder / "listed" / "listed.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["path,modality,report,patient,label:effusion"]
        for number in range(LISTED):
            (path.parent / f"{number}.png").touch()
            lines.append(f'{number}.png,xray,"{number}. {LONG_REPORT}",patient{number // 3},1')
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rates = tuple(_rate(manifest.read, [path]) * LISTED for _ in range(config.rounds))
    # Paths intern their names; when the interpreter's table of such names grows, by megabytes at once and for good, the
    # growth falls into one read and is no cost of its rows. The other read is free of it.
    peak = min(_peak(path) for _ in range(2))
    return [
        measure.Result("rows of a manifest listed", "1/s", rates),
        measure.Result("memory of a million rows, reports of 600 letters", "GB", (peak / 1e3,), "below 2"),
    ]


def _peak(path: pathlib.Path) -> float:
    """Bytes a row that listing a manifest needs at most."""
    tracemalloc.start()
    try:
        listed = manifest.read(path)
        return tracemalloc.get_traced_memory()[1] / len(listed.rows)
    finally:
        tracemalloc.stop()


def _phantom(config: ml_collections.ConfigDict) -> list[measure.Result]:
    """Cases drawn a second, and what the built-in phantom takes on two cores at that pace."""
    heap.reuse()
    source = phantom.source()
    rates, minutes = {}, np.zeros(config.rounds)
    for name, count in PHANTOM.items():
        rows = [row for row in source.rows if row.modality == name]
        rates[name] = [_rate(source.convert, rows[:count]) for _ in range(config.rounds)]
        minutes += len(rows) / np.array(rates[name]) / 2 / 60
    results = [measure.Result(f"{NAMES[name]} of the phantom drawn", "1/s", tuple(rates[name])) for name in rates]
    return [*results, measure.Result("the whole phantom, two cores", "min", tuple(minutes.tolist()), "below 2")]


def _beside(
    config: ml_collections.ConfigDict,
    name: str,
    ours: Callable[[Any], Any],
    items: Sequence[Any],
    other: tuple[str, Callable[[Any], Any]],
    goal: str = "",
) -> list[measure.Result]:
    """Our rate, that of another way, and the ratio."""
    what, plain = other
    works = {"ours": lambda: _rate(ours, items), "plain": lambda: _rate(plain, items)}
    rates = measure.interleaved(works, config.rounds)
    return [
        measure.Result(f"{name}, built", "1/s", rates["ours"]),
        measure.Result(f"{name}, by {what}", "1/s", rates["plain"]),
        measure.ratio(f"{name}: built over {what}", rates["ours"], rates["plain"], goal),
    ]


def _rate(work: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Items per second of processor time."""
    started = time.process_time()
    for item in items:
        work(item)
    return len(items) / (time.process_time() - started)


def _area(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
