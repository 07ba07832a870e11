"""Reads a folder with one DICOM CT series: slices sorted by position, each with its own slope and intercept."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pydicom
from nibabel import affines

from data import dicom_pixels
from data.files import BadInput, check_file
from data.geometry import AIR_HU, Scan

UNRELATED = (".xml", ".txt", ".json", ".csv", ".md", ".html", ".pdf", ".jpg", ".png")
MIN_SERIES = 4  # fewer images are no volume: a scout, a dose page
MAX_UNEVEN = 0.1
MAX_FILES = 10_000
HEADER_TAGS = [
    "Modality", "SeriesInstanceUID", "ImageType", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "RescaleSlope", "RescaleIntercept",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """What the header says of one file."""

    path: Path
    header: pydicom.Dataset
    position: np.ndarray  # (3,) mm, LPS
    depth: float  # mm along the normal


def read(folder: Path) -> Scan:
    """The CT of a folder: float32 HU (column, row, slice). Raises BadInput."""
    images = _one_series(_headers(folder))
    first = images[0][1]
    _check_alike(images)
    along_row, along_column = np.split(_numbers(first, "ImageOrientationPatient", 6), 2)
    normal = np.cross(along_row, along_column)
    slices = []
    for path, header in images:
        position = _numbers(header, "ImagePositionPatient", 3)
        slices.append(Slice(path, header, position, float(position @ normal)))
    slices = _evenly_sorted(slices)
    between_rows, between_columns = _numbers(first, "PixelSpacing", 2)
    # Not the normal times the gap: with a tilted gantry the slices are shifted against each other.
    step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    axes = np.stack([along_row * between_columns, along_column * between_rows, step], axis=1)
    voxels = np.stack([_hounsfield(one) for one in slices])  # (slice, row, column)
    return Scan(voxels.transpose(2, 1, 0), affines.from_matvec(axes, slices[0].position))


def _headers(folder: Path) -> list[tuple[Path, pydicom.Dataset]]:
    """Every file of the folder with its header, in the order of names; refuses files that are no DICOM."""
    files = sorted(p for p in folder.iterdir() if p.name != "DICOMDIR" and not p.name.startswith("."))
    files = [p for p in files if p.suffix.lower() not in UNRELATED and not p.is_dir()]
    if not files:
        raise BadInput("empty_folder", "the folder holds no DICOM file")
    if len(files) > MAX_FILES:
        raise BadInput("too_large", f"{len(files)} files in one series")
    found = []
    for path in files:
        check_file(path)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadInput("path_outside", "a link in the folder leads out of it")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        except pydicom.errors.InvalidDicomError as error:
            raise BadInput("not_dicom", "a file in the folder has no DICOM header") from error
        except Exception as error:  # pydicom raises whatever the damage leads to
            raise BadInput("dicom_damaged", f"a header cannot be read ({type(error).__name__})") from error
        found.append((path, header))
    return found


def _one_series(found: list[tuple[Path, pydicom.Dataset]]) -> list[tuple[Path, pydicom.Dataset]]:
    """The images of the only CT series; localisers and other objects (dose pages, reports) are left out."""
    modalities = {str(header.get("Modality", "")) for _, header in found}
    if "CT" not in modalities:
        raise BadInput(
            "wrong_modality",
            f"DICOM modality {', '.join(sorted(modalities))} in a row of modality ct",
        )
    series: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path, header in found:
        kinds = [str(kind).upper() for kind in header.get("ImageType") or []]
        if header.get("Modality") != "CT" or "LOCALIZER" in kinds or not header.get("Rows"):
            continue
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise BadInput("enhanced_unsupported", "a multi-frame CT: convert it to single frames or NIfTI")
        series.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
    volumes = [images for images in series.values() if len(images) >= MIN_SERIES]
    if not volumes:
        most = max(map(len, series.values()), default=0)
        raise BadInput("too_few_slices", f"{most} slices, at least {MIN_SERIES}")
    if len(volumes) > 1:
        raise BadInput("mixed_series", f"{len(volumes)} CT series in one folder: give each its own")
    return volumes[0]


def _check_alike(images: list[tuple[Path, pydicom.Dataset]]) -> None:
    """Refuses slices that differ in size, spacing or direction, or have no slope and intercept."""
    first = images[0][1]
    for _, header in images:
        for name in ("RescaleSlope", "RescaleIntercept"):
            if header.get(name) is None:
                raise BadInput("no_rescale", f"a slice has no {name}: its numbers are not Hounsfield units")
        if (header.get("Rows"), header.get("Columns")) != (first.get("Rows"), first.get("Columns")):
            raise BadInput("mixed_size", "the slices differ in rows or columns")
        if not np.allclose(_numbers(header, "PixelSpacing", 2), _numbers(first, "PixelSpacing", 2), rtol=1e-3):
            raise BadInput("bad_spacing", "the slices differ in pixel spacing")
        directions = (_numbers(h, "ImageOrientationPatient", 6) for h in (header, first))
        if not np.allclose(*directions, atol=1e-3):
            raise BadInput("mixed_orientation", "the slices differ in direction")


def _numbers(header: pydicom.Dataset, name: str, count: int) -> np.ndarray:
    """A header element of `count` finite numbers (spacings: positive ones)."""
    try:
        values = np.array([float(value) for value in header.get(name) or []])
    except (TypeError, ValueError):
        values = np.array([])
    if name == "PixelSpacing":
        if values.shape != (count,) or not np.isfinite(values).all() or (values <= 0).any():
            raise BadInput("bad_spacing", "a slice has no valid PixelSpacing")
    elif values.shape != (count,) or not np.isfinite(values).all():
        raise BadInput("no_orientation", f"a slice has no valid {name}")
    return values


def _evenly_sorted(slices: list[Slice]) -> list[Slice]:
    """By position along the normal, one slice a position; refuses gaps that differ by more than MAX_UNEVEN."""
    number = {one.path: _instance_number(one.header) for one in slices}
    slices = sorted(slices, key=lambda one: (one.depth, number[one.path], one.path.name))
    # A position within a hundredth of a millimetre of the last one is the same: the earlier instance stays.
    kept = slices[:1] + [b for a, b in itertools.pairwise(slices) if b.depth - a.depth > 0.01]
    if len(kept) < MIN_SERIES:
        raise BadInput(
            "too_few_slices",
            f"{len(kept)} positions in {len(slices)} slices, at least {MIN_SERIES}",
        )
    gaps = np.diff([one.depth for one in kept])
    middle = float(np.median(gaps))
    worst = float(gaps[np.abs(gaps - middle).argmax()])
    if abs(worst - middle) > MAX_UNEVEN * middle:
        raise BadInput(
            "uneven_slices",
            f"gaps of {middle:.2f} mm but one of {worst:.2f} mm: slices missing or mixed",
        )
    return kept


def _instance_number(header: pydicom.Dataset) -> int:
    try:
        return int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0


def _hounsfield(one: Slice) -> np.ndarray:
    """One slice's HU, float32 (row, column)."""
    try:
        dataset = pydicom.dcmread(one.path)
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise BadInput("dicom_damaged", f"a slice cannot be read ({type(error).__name__})") from error
    stored = dicom_pixels.decode(dataset)
    slope, intercept = float(one.header.RescaleSlope), float(one.header.RescaleIntercept)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise BadInput("no_rescale", f"slope {slope:g} and intercept {intercept:g}")
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        limits = sorted((int(padding), int(dataset.get("PixelPaddingRangeLimit", padding))))
        hu[(stored >= limits[0]) & (stored <= limits[1])] = AIR_HU
    return hu
