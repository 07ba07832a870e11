"""Reads the slices of a DICOM CT, one after the other, in Hounsfield units."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pydicom

from data.readers import dicom_bits, dicom_pixels, dicom_tags, hounsfield, memory
from data.readers.files import BadInput, Note
from data.readers.geometry import AIR_HU

EXACT = 1 << 23  # whole numbers below it, 16 bits added, are exact as floats
PLANE_BYTES = 16  # of a pixel while its slice is decoded and converted


@dataclasses.dataclass(frozen=True)
class Image:
    """One slice as it is stored: a file, or a frame of one."""

    path: Path
    header: pydicom.Dataset
    frame: int | None  # from 0; None: the file holds a single one
    place: dicom_tags.Place | None = None  # of pixels that are not compressed


def read(images: list[Image]) -> Iterator[np.ndarray]:
    """The HU of one image after the other, (column, row, 1), float32 or whole numbers."""
    for path, of_file in itertools.groupby(images, key=lambda image: image.path):
        memory.check(2 * path.stat().st_size)
        of_file = list(of_file)
        if len(of_file) == 1 and (stored := _in_place(of_file[0])) is not None:
            yield _hounsfield(of_file[0], stored, of_file[0].header).T[..., None]
            continue
        dataset = dicom_tags.read(path, pixels=True)
        if "PixelData" not in dataset:
            raise BadInput("no_pixels", "a slice holds no image")
        memory.check(2 * path.stat().st_size + int(dataset.Rows) * int(dataset.Columns) * PLANE_BYTES)
        for image in of_file:
            yield _hounsfield(image, dicom_pixels.decode(dataset, image.frame), dataset).T[..., None]


def _in_place(image: Image) -> np.ndarray | None:
    """The pixels of a file whose header has been read, without reading it again; None for all but the plainest."""
    return dicom_pixels.plain(image.path, image.header, image.place) if image.frame is None else None


def _hounsfield(image: Image, stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """One image's HU (row, column) of its pixels as stored; `dataset` is its file."""
    if stored.ndim != 2:
        raise BadInput("not_scalar", "a slice in colours")
    if not str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        raise BadInput("not_scalar", "the numbers of a slice stand for colours")
    try:
        rescale = (image.header.get("RescaleSlope"), image.header.get("RescaleIntercept"))
        slope, intercept = (1.0, 0.0) if rescale == (None, None) else map(float, rescale)
    except (TypeError, ValueError):
        slope = intercept = np.nan
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise BadInput("no_rescale", f"slope {slope:g} and intercept {intercept:g}")
    padding = dicom_bits.padding(stored, dataset)
    if slope == 1 and intercept == int(intercept) and abs(intercept) < EXACT and stored.dtype.itemsize <= 2:
        hu = np.add(stored, int(intercept), dtype=np.int32)  # as floats they would be the same whole numbers
    else:
        hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if padding.any():
        hu[padding] = AIR_HU
    return hu


def with_air(planes: Iterable[np.ndarray], note: Note) -> Iterator[np.ndarray]:
    """Refuses, after the last plane, numbers without slope and intercept in which air is not where HU have it."""
    air = voxels = 0
    for plane in planes:
        air += hounsfield.air(plane)
        voxels += plane.size
        yield plane
    if air < hounsfield.MIN_AIR * voxels:
        raise BadInput("no_rescale", "no RescaleSlope and RescaleIntercept, and no Hounsfield units without them")
    note("no_rescale_but_hu")
