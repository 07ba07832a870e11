"""Reads one CT of any format to Hounsfield units on the canonical grid (DICOM: data/dicom_series.py)."""

import dataclasses
import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from nibabel import affines

from data import dicom_series, geometry, headers
from data.files import BadInput, Note, check_file, unheard
from data.geometry import AIR_HU, HIGHEST_HU, Scan

RULES = {
    "axes": "(z, y, x) growing to the patient's Superior, Posterior and Left, whatever the file's order",
    "tilt": "up to 1 degree is ignored, up to 30 is resampled (linear) to the patient's axes, more is refused",
    "hu": f"slope and intercept applied, padding -> {AIR_HU}, clipped to {AIR_HU}..{HIGHEST_HU} before resampling",
    "grid": "in plane a square field around the whole scan, filled up with air; exact area mean when shrinking, "
    "linear when growing, each axis by itself",
    "mask": "a cell is inside from half of the object's best coverage on",
}

MIN_SLICES = 4
MAX_VOXELS = 1 << 31
MAX_BYTES = 1 << 32  # of voxels as stored: twice the largest chest that scanners make, 1,500 slices as float32
DEFLATE_RATIO = 1032  # deflate packs no tighter: a header that claims more than that lies
SPACING_MM = (0.05, 30.0)
METAL_HU = 8000  # above any bone and calcium
SOFT_TISSUE, MIN_SOFT = (-150, 250), 0.02  # HU, and the share of it that any scan of a body has
NOTED_TILT_DEGREES = 15.0
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it prints to the terminal, file names included
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".nrrd", ".nhdr")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the user decides of volumes that leave it open."""

    assume: str = ""  # axes of a NIfTI that names none, such as "LPS"
    min_slices: int = MIN_SLICES  # along the axis with the fewest


STRICT = Rules()


def read_volume(
    path: Path, note: Note = unheard, rules: Rules = STRICT, rescale: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A CT as int16 HU of VOLUME_SHAPE and its spacing float32 (3,) in mm, both (z, y, x). Raises BadInput."""
    return geometry.canonical_volume(*to_zyx(read_ct(path, note, rules, rescale)))


def read_ct(
    path: Path, note: Note = unheard, rules: Rules = STRICT, rescale: tuple[float, float] | None = None
) -> Scan:
    """A CT in its own grid, but along the patient's axes: voxels int16 HU (x, y, z). Raises BadInput.

    `note` hears what was put up with. `rescale` is the slope and intercept that a table knows of the scan: applied only
    where the file's own numbers have no air at its Hounsfield units, and have it then.
    """
    scan = dicom_series.read(path, note, rules.min_slices) if path.is_dir() else _read_file(path, rules)
    _check_scan(scan, rules)
    if rescale and not dicom_series.has_air(scan.voxels):
        slope, intercept = rescale
        rescaled = scan.voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if dicom_series.has_air(rescaled):
            note("rescaled_by_table")
            scan = Scan(rescaled, scan.affine)
    if geometry.tilt_degrees(geometry.reorient(scan).affine) > NOTED_TILT_DEGREES:
        note("oblique_straightened")
    scan = Scan(_to_hu(scan.voxels, note), scan.affine)
    return _along_axes(scan, order=1, outside=AIR_HU)


def read_volume_with_mask(
    path: Path, mask_path: Path, value: int | None, note: Note = unheard, rules: Rules = STRICT
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `read_volume` gives, and the mask on the same grid as uint8 0 or `value` (None: the mask's own numbers).

    Raises BadInput.
    """
    scan = read_ct(path, note, rules)
    mask = _read_file(mask_path, rules)
    _check_scan(mask, rules)
    mask = _along_axes(Scan(_whole_numbers(mask.voxels), mask.affine), order=0, outside=0)
    last = np.array(scan.voxels.shape) - 1
    if mask.voxels.shape != scan.voxels.shape:
        raise BadInput("mask_geometry", f"the mask is {mask.voxels.shape}, its scan {scan.voxels.shape}")
    apart = max(
        np.abs(affines.apply_affine(mask.affine, at) - affines.apply_affine(scan.affine, at)).max()
        for at in (np.zeros(3), last)
    )
    if apart > 0.1 * affines.voxel_sizes(scan.affine).min():
        raise BadInput("mask_geometry", f"the mask lies {apart:.2f} mm off its scan")
    volume, spacing = to_zyx(scan)
    weights, spacing_mm = geometry.canonical_weights(volume.shape, spacing)
    small = geometry.canonical_mask(mask.voxels.transpose(2, 1, 0), weights, value)
    return geometry.canonical_volume(volume, spacing)[0], spacing_mm, small


def to_zyx(scan: Scan) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Voxels (z, y, x) and spacing (z, y, x) in mm of a scan that lies along the patient's axes."""
    # One format keeps 0.8 mm as float32, another as text: unrounded, voxels would differ by 1 HU.
    z, y, x = (round(float(size), 5) for size in affines.voxel_sizes(scan.affine)[::-1])
    return scan.voxels.transpose(2, 1, 0), (z, y, x)


def _along_axes(scan: Scan, *, order: int, outside: float) -> Scan:
    try:
        return geometry.straighten(geometry.reorient(scan), order=order, outside=outside)
    except geometry.TiltError as error:
        raise BadInput("oblique", str(error)) from error


def _read_file(path: Path, rules: Rules) -> Scan:
    check_file(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path, rules.assume)
    if name.endswith((".hdr", ".img")):
        return _read_nifti_pair(path, rules.assume)
    if name.endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        return _read_itk(path)
    with path.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            raise BadInput("single_dicom", "one DICOM file: name the folder that holds the series")
    raise BadInput("unsupported_format", f"not a DICOM folder and none of {', '.join(SUFFIXES)}")


def _read_nifti(path: Path, assume: str) -> Scan:
    """Read as bytes, and to the last one: both nibabel and SimpleITK can miss a damaged or missing end."""
    packed = path.name.lower().endswith(".gz")
    if packed:
        _check_gzip(path)
    try:
        with (gzip.open if packed else open)(path, "rb") as stream:
            header = _nifti_header(stream.read(544), b"n+")
            shape = _nifti_shape(header)
            start = int(header["vox_offset"])
            size = _check_length(start, shape, header, path.stat().st_size * (DEFLATE_RATIO if packed else 1))
            stream.seek(0)
            data = stream.read(size)
            if len(data) == size:
                while stream.read(1 << 20):  # the checksum stands behind whatever follows
                    pass
    except EOFError as error:
        raise BadInput("gzip_truncated", "the compressed stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput("gzip_crc", "the compressed stream is damaged") from error
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error
    if len(data) < size:
        raise BadInput("nifti_short", f"{len(data)} bytes, the header says {size}")
    return _nifti_scan(header, shape, data, start, assume)


def _read_nifti_pair(path: Path, assume: str) -> Scan:
    """A `.hdr` and the `.img` beside it; either may be named."""
    head, body = path.with_suffix(".hdr"), path.with_suffix(".img")
    check_file(head)
    check_file(body)
    with head.open("rb") as stream:
        header = _nifti_header(stream.read(544), b"ni")
    shape = _nifti_shape(header)
    start = int(header["vox_offset"])
    size = _check_length(start, shape, header, body.stat().st_size)
    with body.open("rb") as stream:
        return _nifti_scan(header, shape, stream.read(size), start, assume)


def _check_gzip(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            raise BadInput("not_gzip", "the name ends in .gz, the bytes are no gzip stream")


def _check_length(start: int, shape: tuple[int, ...], header: nibabel.Nifti1Header, room: int) -> int:
    """Bytes up to the last voxel; refused, before anything is allocated, where they are more than `room`."""
    voxels = math.prod(shape) * header.get_data_dtype().itemsize
    if start < 0 or voxels > MAX_BYTES:
        raise BadInput("too_large", f"the header claims {voxels} bytes of voxels from {start} on, at most {MAX_BYTES}")
    if start + voxels > room:
        raise BadInput("nifti_short", f"at most {room} bytes, the header says {start + voxels}")
    return start + voxels


def _nifti_scan(header: nibabel.Nifti1Header, shape: tuple[int, ...], data: bytes, start: int, assume: str) -> Scan:
    voxels = np.frombuffer(data, header.get_data_dtype(), math.prod(shape), start).reshape(shape, order="F")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if (slope not in (0.0, 1.0) and np.isfinite(slope)) or (slope == 1 and intercept):
        if not np.isfinite(intercept):
            raise BadInput("nifti_header", "the slope is a number, the intercept is none")
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    elif not voxels.dtype.isnative:
        voxels = voxels.astype(voxels.dtype.newbyteorder("="))
    return Scan(voxels, headers.nifti_affine(header, assume))


def _nifti_header(data: bytes, magic: bytes) -> nibabel.Nifti1Header:
    """The header as stored: nibabel's own loading repairs bad spacings without a word."""
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if len(data) < kind.template_dtype.itemsize:
            continue
        try:
            header = kind.from_fileobj(io.BytesIO(data), check=False)
        except Exception:
            continue
        if header["sizeof_hdr"] == kind.sizeof_hdr and bytes(header["magic"].item())[:2] == magic:
            return header
    raise BadInput("not_nifti", "there is no NIfTI header of this kind of file")


def _nifti_shape(header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    try:
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except Exception as error:
        raise BadInput("nifti_header", "dimensions or data type are none that NIfTI knows") from error
    if dtype.kind not in "iuf":
        raise BadInput("not_scalar", "one number a voxel is wanted, not colours or complex numbers")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise BadInput("not_3d", f"the image has the shape {tuple(shape)}")
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise BadInput("too_large", f"the header claims the shape {tuple(shape)}")
    return tuple(int(n) for n in shape[:3])


def _read_itk(path: Path) -> Scan:
    """MetaImage and NRRD. SimpleITK fills what is missing with zeros, so the length is checked before."""
    headers.check_payload(path)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:  # its text holds memory addresses
        raise BadInput("unreadable", "SimpleITK cannot read the file (a sheared or unknown header?)") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise BadInput("not_scalar", "one number a voxel is wanted")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise BadInput("not_3d", f"the image has {image.GetDimension()} dimensions")
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    voxels = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    return Scan(voxels, affines.from_matvec(directions, image.GetOrigin()))


def _check_scan(scan: Scan, rules: Rules) -> None:
    """Refuses geometry that no scanner makes, and what is no volume."""
    spacing = affines.voxel_sizes(scan.affine)
    low, high = SPACING_MM
    if not np.isfinite(scan.affine).all() or (spacing < low).any() or (spacing > high).any():
        sizes = " x ".join(f"{s:.4g}" for s in spacing)
        raise BadInput("bad_spacing", f"voxels of {sizes} mm; {low} to {high} is believed")
    if abs(np.linalg.det(scan.affine[:3, :3] / spacing)) < 0.1:
        raise BadInput("bad_affine", "the axes of the scan do not span a space")
    if min(scan.voxels.shape) < rules.min_slices:
        raise BadInput("too_few_slices", f"the shape {scan.voxels.shape}; at least {rules.min_slices} along each axis")


def _to_hu(voxels: np.ndarray, note: Note = unheard) -> np.ndarray:
    """int16 HU within AIR_HU..HIGHEST_HU; refuses numbers that are no Hounsfield units."""
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise BadInput("nonfinite", "the scan has NaN or infinite voxels")
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        raise BadInput("constant_volume", "every voxel has the same value")
    if low > -200:
        raise BadInput(
            "not_hu",
            f"the lowest value is {low:.0f}: no air, so not Hounsfield units (MR? no intercept?)",
        )
    if low < -1500 and _rescaled_twice(voxels, low):
        raise BadInput(
            "double_rescale",
            "air lies near -2000 and tissue near -1000: rescaled twice (set the file's slope to 1, its intercept to 0)",
        )
    if high > METAL_HU:
        note("metal_clipped")
    clipped = np.clip(voxels, AIR_HU, HIGHEST_HU)
    return (np.rint(clipped) if voxels.dtype.kind == "f" else clipped).astype(np.int16, copy=False)


def _rescaled_twice(voxels: np.ndarray, low: float) -> bool:
    """Whether tissue lies where air should: most voxels far too low, or hardly any as dense as soft tissue.

    Padding is one value, the lowest, may fill most of a scan, and counts for nothing.
    """
    inside = voxels != low
    count = np.count_nonzero(inside)
    too_low = np.count_nonzero((voxels < -1500) & inside)
    soft = np.count_nonzero((voxels > SOFT_TISSUE[0]) & (voxels < SOFT_TISSUE[1]))
    return too_low > voxels.size / 2 or (too_low > MIN_SOFT * count and soft < MIN_SOFT * count)


def _whole_numbers(voxels: np.ndarray) -> np.ndarray:
    """A mask's voxels as int32; refuses what is not a set of whole numbers."""
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels) & (voxels == np.rint(voxels))).all():
        raise BadInput("mask_values", "the mask does not hold whole numbers")
    numbers = np.unique(voxels)
    if len(numbers) > 256 or numbers[0] < 0:
        raise BadInput("mask_values", f"the mask holds {len(numbers)} different values from {numbers[0]} on")
    return voxels.astype(np.int32)
