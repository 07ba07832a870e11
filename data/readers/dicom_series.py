"""Reads one DICOM CT series, a folder or a multi-frame file: slices in order of their position, in Hounsfield units."""

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
from nibabel import affines

from data.readers import dicom_frames, dicom_planes, dicom_tags, payload
from data.readers.dicom_planes import Image
from data.readers.files import BadInput, Note, check_file, ignore_note
from data.readers.hounsfield import VolumeStream

UNRELATED = (".xml", ".txt", ".json", ".csv", ".md", ".html", ".pdf", ".jpg", ".png", ".db", ".ini", ".inf", ".log")
# What viewers, discs and systems put beside slices, without a suffix.
BESIDE = ("dicomdir", "version", "lockfile", "readme", "license", "icon\r")
MIN_SERIES = 4  # fewer images are no volume: a scout, a dose page
MAX_UNEVEN = 0.1
SAME_PLACE_MM = 0.01
MAX_SHIFT = 0.5  # of a pixel, by which a slice may lie beside the line through the first and the last
UNIT = 0.01  # by which directions may miss unit length and a right angle: headers round them
HOUNSFIELD = {"HU", "HU_MOD", "US", ""}  # RescaleType; "US" is unspecified, as older scanners have it
MAX_FILES = 10_000


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice and its place."""

    image: Image
    position: np.ndarray  # (3,) mm, LPS
    depth: float  # mm along the normal


def read(path: Path, note: Note = ignore_note, min_slices: int = MIN_SERIES) -> VolumeStream:
    """The CT of a folder or of an enhanced (multi-frame) file, float32 HU (column, row, slice). Raises BadInput.

    `note` gets what was tolerated.
    """
    images = _one_series(_headers(path), min_slices)
    first = images[0].header
    _check_alike([image.header for image in images])
    along_row, along_column = np.split(_numbers(first, "ImageOrientationPatient", 6), 2)
    normal = np.cross(along_row, along_column)
    positions = [_numbers(image.header, "ImagePositionPatient", 3) for image in images]
    slices = [Slice(image, at, float(at @ normal)) for image, at in zip(images, positions, strict=True)]
    if len(slices) * int(first.Rows) * int(first.Columns) > payload.MAX_VOXELS:
        raise BadInput("too_large", f"{len(slices)} slices of {first.Rows} x {first.Columns} pixels")
    slices = _evenly_sorted(_one_a_place(slices, note), min_slices)
    between_rows, between_columns = _numbers(first, "PixelSpacing", 2)
    _check_line(slices, MAX_SHIFT * min(between_rows, between_columns))
    # Not the normal times the gap: a tilted gantry shifts the slices against each other.
    step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    axes = np.stack([along_row * between_columns, along_column * between_rows, step], axis=1)
    planes = dicom_planes.read([one.image for one in slices])
    if first.get("RescaleSlope") is None:
        planes = dicom_planes.with_air(planes, note)
    shape = (int(first.Columns), int(first.Rows), len(slices))
    return VolumeStream(shape, affines.from_matvec(axes, slices[0].position), planes)


def files(folder: Path) -> list[Path]:
    """What may be a slice in a folder, by name: neither what is hidden nor what is put beside slices."""
    shown = sorted(p for p in folder.iterdir() if p.name.lower() not in BESIDE and not p.name.startswith("."))
    return [p for p in shown if p.suffix.lower() not in UNRELATED and not p.is_dir()]


def _headers(folder: Path) -> list[Image]:
    """Every file of a folder with its header, by name, or the one named file. Raises BadInput for what is no DICOM."""
    if not folder.is_dir():
        header = dicom_tags.read(folder, pixels=False)
        if not header.get("Rows"):
            raise BadInput("no_pixels", "an object without an image, or with a damaged header")
        if not _several(header):
            raise BadInput("single_dicom", "one DICOM slice: name the folder that holds the series")
        return [Image(folder, header, None)]
    slices = files(folder)
    if not slices:
        raise BadInput("empty_folder", "the folder holds no DICOM file")
    if len(slices) > MAX_FILES:
        raise BadInput("too_large", f"{len(slices)} files in one series")
    headers: list[Image] = []
    known: dicom_tags.Known = {}
    for path in slices:
        check_file(path)
        header, place = dicom_tags.read_header(path)
        dicom_tags.share(header, known)
        headers.append(Image(path, header, None, place))
    return headers


def _one_series(files: list[Image], min_slices: int) -> list[Image]:
    """The images of the only CT series; localisers and other objects (dose pages, reports) are left out."""
    modalities = {str(file.header.get("Modality", "")) for file in files}
    if "CT" not in modalities:
        raise BadInput("wrong_modality", f"DICOM modality {', '.join(sorted(modalities))} in a row of modality ct")
    series: dict[str, list[Image]] = {}
    for file in files:
        if file.header.get("Modality") != "CT" or not file.header.get("Rows"):
            continue
        for image in _images(file):
            if "LOCALIZER" not in [str(kind).upper() for kind in image.header.get("ImageType") or []]:
                series.setdefault(str(file.header.get("SeriesInstanceUID")), []).append(image)
    volumes = [images for images in series.values() if len(images) >= min_slices]
    if not volumes:
        most = max(map(len, series.values()), default=0)
        raise BadInput("too_few_slices", f"{most} slices, at least {min_slices}")
    if len(volumes) > 1:
        raise BadInput("mixed_series", f"{len(volumes)} CT series in one folder: give each its own")
    return volumes[0]


def _several(header: pydicom.Dataset) -> bool:
    return int(header.get("NumberOfFrames") or 1) > 1


def _images(file: Image) -> list[Image]:
    if not _several(file.header):
        return [file]
    return [Image(file.path, flat, frame) for frame, flat in enumerate(dicom_frames.split(file.header))]


def _check_alike(headers: list[pydicom.Dataset]) -> None:
    """Refuses slices that differ in size, spacing or direction, or hold no Hounsfield units."""
    first = headers[0]
    rescaled = {(h.get("RescaleSlope") is not None, h.get("RescaleIntercept") is not None) for h in headers}
    if rescaled not in ({(True, True)}, {(False, False)}):
        raise BadInput(
            "no_rescale", "slices lack RescaleSlope or RescaleIntercept: their numbers are no Hounsfield units"
        )
    if not {str(header.get("RescaleType") or "") for header in headers} <= HOUNSFIELD:
        raise BadInput("not_hu", "RescaleType says that the numbers are no Hounsfield units")
    if any(header.get("ModalityLUTSequence") for header in headers):
        raise BadInput("no_rescale", "a table instead of RescaleSlope and RescaleIntercept")
    size = first.get("Rows"), first.get("Columns")
    spacing, directions = _numbers(first, "PixelSpacing", 2), _numbers(first, "ImageOrientationPatient", 6)
    for header in headers:
        if (header.get("Rows"), header.get("Columns")) != size:
            raise BadInput("mixed_size", "the slices differ in rows or columns")
        if not _near(_numbers(header, "PixelSpacing", 2), spacing, relative=1e-3, absolute=1e-8):
            raise BadInput("bad_spacing", "the slices differ in pixel spacing")
        if not _near(_numbers(header, "ImageOrientationPatient", 6), directions, relative=1e-5, absolute=1e-3):
            raise BadInput("mixed_orientation", "the slices differ in direction")
    along_row, along_column = np.split(_numbers(first, "ImageOrientationPatient", 6), 2)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if (np.abs(lengths - 1) > UNIT).any() or abs(along_row @ along_column) > UNIT:
        raise BadInput("bad_affine", "the directions of rows and columns are no unit vectors at a right angle")


def _near(values: np.ndarray, others: np.ndarray, *, relative: float, absolute: float) -> bool:
    """numpy.allclose of a few finite numbers, without its 30 microseconds a slice."""
    return bool((np.abs(values - others) <= absolute + relative * np.abs(others)).all())


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


def _one_a_place(slices: list[Slice], note: Note) -> list[Slice]:
    """By position along the normal; of copies of one slice the first, and of different slices at one place none."""
    slices = sorted(slices, key=lambda one: (one.depth, _instance_number(one.image.header), one.image.path.name))
    distinct = slices[:1]
    for one in slices[1:]:
        if one.depth - distinct[-1].depth > SAME_PLACE_MM:
            distinct.append(one)
            continue
        if one.image.frame is not None:
            raise BadInput("enhanced_unsupported", "several frames at one place: stacks, times or energies")
        away = float(np.abs(one.position - distinct[-1].position).max())
        if away > SAME_PLACE_MM or not np.array_equal(*(_alone(copy.image) for copy in (distinct[-1], one))):
            raise BadInput("slices_at_one_place", "different slices at one position: phases, times or energies")
        note("duplicate_slices")
    return distinct


def _alone(image: Image) -> np.ndarray:
    return next(dicom_planes.read([image]))


def _check_line(slices: list[Slice], most_mm: float) -> None:
    """Refuses slices that are shifted in their plane: one step from slice to slice would shear the whole scan."""
    places = np.array([one.position for one in slices])
    depths = np.array([one.depth for one in slices])
    share = (depths - depths[0]) / (depths[-1] - depths[0])
    beside = np.linalg.norm(places - places[0] - share[:, None] * (places[-1] - places[0]), axis=1).max()
    if beside > most_mm:
        raise BadInput("shifted_slices", f"a slice lies {beside:.1f} mm beside the line of the others")


def _evenly_sorted(distinct: list[Slice], min_slices: int) -> list[Slice]:
    """The same; refuses gaps that differ by more than MAX_UNEVEN."""
    if len(distinct) < min_slices:
        raise BadInput("too_few_slices", f"slices at {len(distinct)} positions, at least {min_slices}")
    gaps = np.diff([one.depth for one in distinct])
    middle = float(np.median(gaps))
    worst = float(gaps[np.abs(gaps - middle).argmax()])
    if abs(worst - middle) > MAX_UNEVEN * middle:
        raise BadInput("uneven_slices", f"gaps of {middle:.2f} mm but one of {worst:.2f} mm: slices missing or mixed")
    return distinct


def _instance_number(header: pydicom.Dataset) -> int:
    try:
        return int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0
