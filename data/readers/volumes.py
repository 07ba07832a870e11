"""Reads one CT of any format to Hounsfield units on the canonical grid (DICOM: readers/dicom_series.py)."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from nibabel import affines

from data.readers import dicom_series, geometry, hounsfield, metaimage, nifti, nrrd, payload, scan_table
from data.readers.files import BadInput, Note, check_file, ignore_note, is_dicom
from data.readers.geometry import AIR_HU, HIGHEST_HU, Scan
from data.readers.hounsfield import VolumeStream
from data.readers.scan_table import TableFacts
from data.record_grid import RecordGrid

RULES = {
    "axes": "(z, y, x) growing to the patient's Superior, Posterior and Left, whatever the file's order",
    "tilt": "up to 1 degree is ignored, up to 30 is resampled (linear) to the patient's axes, more is refused",
    "hu": f"slope and intercept applied, padding -> {AIR_HU}, clipped to {AIR_HU}..{HIGHEST_HU} before resampling",
    "grid": "in plane a square field around the whole scan, filled up with air; exact area mean when shrinking, "
    "linear when growing, each axis by itself",
    "mask": "a cell is inside from half of the object's best coverage on",
}

BY_SPACING = (
    "voxels of the set's spacing over the scan's own extent, to the nearest whole one, with the same centre; exact "
    "area mean when shrinking, linear when growing, each axis by itself"
)
OBLONG = "in plane a field of the grid's proportions around the whole scan, filled up with air"
CROPPED = "the box around it and 10 mm beside, as a copy of about 4 mm shows it; the grid's rule holds for the box"
MIN_SLICES = 4
SPACING_MM = (0.05, 30.0)
NOTED_TILT_DEGREES = 15.0
STRAIGHT_BYTES = 6  # for each voxel of the straight grid around a tilted scan: as floats, and rounded
MASK_BYTES = 3  # for each voxel of a mask: itself, one of its objects, and what the scan beside it takes
NIFTI_PAIR = (".hdr", ".img")
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".nrrd", ".nhdr")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the user decides where a volume leaves it open."""

    assume: str = ""  # axes of a NIfTI that names none, such as "LPS"
    min_slices: int = MIN_SLICES  # along the axis with the fewest


STRICT = Rules()


def grid_rules(grid: RecordGrid) -> dict[str, str]:
    """How the volumes of a grid come to be, for the contract."""
    rules = dict(RULES)
    if grid.spacing_mm:
        rules["grid"] = BY_SPACING
    elif grid.volume[1] != grid.volume[2]:
        rules["grid"] = f"{OBLONG};{RULES['grid'].partition(';')[2]}"
    return rules | ({"crop": CROPPED} if grid.crop_to else {})


def read_volume(
    path: Path, note: Note = ignore_note, rules: Rules = STRICT, facts: TableFacts | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A CT as int16 HU of VOLUME_SHAPE and its spacing float32 (3,) in mm, both (z, y, x). Raises BadInput."""
    return geometry.canonical_volume(*to_zyx(read_ct(path, note, rules, facts)))


def read_ct(path: Path, note: Note = ignore_note, rules: Rules = STRICT, facts: TableFacts | None = None) -> Scan:
    """A CT in its own grid, but along the patient's axes: voxels int16 HU (x, y, z). Raises BadInput."""
    return read_own_ct(path, note, rules, facts)[0]


def read_own_ct(
    path: Path, note: Note = ignore_note, rules: Rules = STRICT, facts: TableFacts | None = None
) -> tuple[Scan, geometry.Grid]:
    """The same, and the grid that the file has. Raises BadInput.

    `note` gets what was tolerated. `facts` is what a table holds of the scan: its geometry goes for a header that was
    never filled in, and its slope and intercept are applied only where that brings air to its Hounsfield units and the
    file's own numbers do not have it there. Peak memory: 2 bytes a voxel and 100 MB, plus the voxels as stored with
    slope and intercept, plus 6 bytes for each voxel of the straight grid around a tilted scan.
    """
    facts = facts or TableFacts()
    if facts.spacing_mm and facts.orientation and not rules.assume:  # any axes will do: the table has them
        rules = dataclasses.replace(rules, assume="LPS")
    opened = _open(path, rules, note)
    opened = dataclasses.replace(opened, affine=scan_table.affine(opened.affine, facts, note))
    _check_geometry(opened, rules)
    if facts.rescale:
        payload.check_memory(opened.shape, opened.itemsize, more=math.prod(opened.shape) * opened.itemsize)
        opened = hounsfield.rescaled(opened, facts.rescale, note)
    scan = hounsfield.to_hu(opened, note)
    if geometry.tilt_degrees(geometry.reorient(scan).affine) > NOTED_TILT_DEGREES:
        note("oblique_straightened")
    return _along_axes(scan, order=1, outside=AIR_HU), geometry.Grid(opened.shape, opened.affine)


def own_grid(path: Path, rules: Rules = STRICT) -> geometry.Grid:
    """The grid of a CT as its file has it, from the headers alone. Raises BadInput."""
    opened = _open(path, rules)
    return geometry.Grid(opened.shape, opened.affine)


def straight_grid(path: Path, rules: Rules = STRICT) -> geometry.Grid:
    """The grid along the patient's axes on which `read_ct` lays a CT, by the headers alone. Raises BadInput."""
    return geometry.patient_grid(own_grid(path, rules))


def read_mask(path: Path, scan: Scan, *, own_numbers: bool, rules: Rules = STRICT) -> tuple[Scan, np.ndarray]:
    """The mask of a scan, which lies on the same voxels: uint8, 0 and a number for each object.

    With `own_numbers` these are the file's, else they count in the order of appearance. Beside it the mask (x, y, z) as
    it is turned, and not straightened, which is the same array where the scan is not tilted. Raises BadInput.
    """
    opened = _open(path, rules)
    _check_geometry(opened, rules)
    payload.check_memory(opened.shape, opened.itemsize, more=math.prod(opened.shape) * MASK_BYTES)
    objects = hounsfield.to_objects(opened, own_numbers=own_numbers)
    mask = _along_axes(objects, order=0, outside=0)
    if mask.voxels.shape != scan.voxels.shape:
        raise BadInput("mask_geometry", f"the mask is {mask.voxels.shape}, its scan {scan.voxels.shape}")
    ends = np.array([np.zeros(3), np.array(scan.voxels.shape) - 1])
    apart = np.abs(affines.apply_affine(mask.affine, ends) - affines.apply_affine(scan.affine, ends)).max()
    if apart > 0.1 * affines.voxel_sizes(scan.affine).min():
        raise BadInput("mask_geometry", f"the mask lies {apart:.2f} mm off its scan")
    return mask, geometry.reorient(objects).voxels


def files(path: Path) -> list[Path]:
    """The files that a scan or a mask is read from: those of a folder, and a header with its data file, if it is there.

    Of any other path the path itself. Raises OSError.
    """
    if path.is_dir():
        return sorted(path.iterdir())
    if path.suffix in NIFTI_PAIR:
        return [part for part in map(path.with_suffix, NIFTI_PAIR) if part == path or part.exists()]
    reader = {".mhd": metaimage, ".nhdr": nrrd}.get(path.suffix.lower())
    try:
        name = reader.data_file(path) if reader else ""
    except BadInput:  # whoever reads the voxels says why
        name = ""
    body = path.parent / name
    return sorted([path, body]) if name and body.name == name and body.exists() else [path]


def to_zyx(scan: Scan) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Voxels (z, y, x) and spacing (z, y, x) in mm of a scan that lies along the patient's axes."""
    return scan.voxels.transpose(2, 1, 0), rounded(affines.voxel_sizes(scan.affine)[::-1])


def rounded(spacing: np.ndarray) -> tuple[float, float, float]:
    """A spacing (z, y, x) in mm: one format keeps 0.8 as float32, another as text, and voxels would differ by 1 HU."""
    z, y, x = (round(float(size), 5) for size in spacing)
    return z, y, x


def _along_axes(scan: Scan, *, order: int, outside: float) -> Scan:
    try:
        turned = geometry.reorient(scan)
        straight = geometry.straight_shape(turned)
        payload.check_memory(scan.voxels.shape, more=math.prod(straight) * STRAIGHT_BYTES if straight else 0)
        return geometry.straighten(turned, order=order, outside=outside)
    except geometry.TiltError as error:
        raise BadInput("oblique", str(error)) from error


def _open(path: Path, rules: Rules, note: Note = ignore_note) -> VolumeStream:
    if path.is_dir():
        return dicom_series.read(path, note, rules.min_slices)
    check_file(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return nifti.read(path, rules.assume)
    if name.endswith((".hdr", ".img")):
        return nifti.read_pair(path, rules.assume)
    if name.endswith((".mha", ".mhd")):
        return metaimage.read(path)
    if name.endswith((".nrrd", ".nhdr")):
        return nrrd.read(path)
    if is_dicom(path):
        return dicom_series.read(path, note, rules.min_slices)
    raise BadInput("unsupported_format", f"no DICOM and none of {', '.join(SUFFIXES)}")


def _check_geometry(scan: VolumeStream, rules: Rules) -> None:
    """Refuses geometry that no scanner makes, and what is no volume."""
    spacing = affines.voxel_sizes(scan.affine)
    low, high = SPACING_MM
    if not np.isfinite(scan.affine).all() or (spacing < low).any() or (spacing > high).any():
        sizes = " x ".join(f"{s:.4g}" for s in spacing)
        raise BadInput("bad_spacing", f"voxels of {sizes} mm; {low} to {high} is believed")
    if abs(np.linalg.det(scan.affine[:3, :3] / spacing)) < 0.1:
        raise BadInput("bad_affine", "the axes of the scan do not span a space")
    if min(scan.shape) < rules.min_slices:
        raise BadInput("too_few_slices", f"the shape {scan.shape}; at least {rules.min_slices} along each axis")
    payload.check_memory(scan.shape, scan.itemsize)
