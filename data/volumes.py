"""Reads one CT of any format to Hounsfield units on the canonical grid (DICOM: data/dicom_series.py)."""

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
from data.files import BadInput, check_file
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
SPACING_MM = (0.05, 30.0)
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it prints to the terminal, file names included
SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A CT as int16 HU of VOLUME_SHAPE and its spacing float32 (3,) in mm, both (z, y, x). Raises BadInput."""
    return geometry.canonical_volume(*to_zyx(read_ct(path)))


def read_ct(path: Path) -> Scan:
    """A CT in its own grid, but along the patient's axes: voxels int16 HU (x, y, z). Raises BadInput."""
    scan = dicom_series.read(path) if path.is_dir() else _read_file(path)
    _check_scan(scan)
    scan = Scan(_to_hu(scan.voxels), scan.affine)
    return _along_axes(scan, order=1, outside=AIR_HU)


def read_volume_with_mask(path: Path, mask_path: Path, value: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `read_volume` gives, and the mask on the same grid as uint8 0 or `value`. Raises BadInput."""
    scan = read_ct(path)
    mask = _read_file(mask_path)
    _check_scan(mask)
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


def _read_file(path: Path) -> Scan:
    check_file(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    if name.endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        return _read_itk(path)
    raise BadInput("unsupported_format", f"not a DICOM folder and none of {', '.join(SUFFIXES)}")


def _read_nifti(path: Path) -> Scan:
    """Read as bytes, and to the last one: both nibabel and SimpleITK can miss a damaged or missing end."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as stream:
            header = _nifti_header(stream.read(544))
            shape = _nifti_shape(header)
            size = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
            stream.seek(0)
            data = stream.read(size)
            if len(data) == size:
                while stream.read(1 << 20):  # the checksum stands behind whatever follows
                    pass
    except EOFError as error:
        raise BadInput("gzip_truncated", "the compressed stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput("gzip_damaged", "the compressed stream is damaged, or is none") from error
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error
    if len(data) < size:
        raise BadInput("nifti_short", f"{len(data)} bytes, the header says {size}")
    affine = headers.nifti_affine(header)
    kind = nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    voxels = np.asarray(image.dataobj.get_unscaled()).reshape(shape)
    if (slope, intercept) != (1.0, 0.0):
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return Scan(voxels, affine)


def _nifti_header(data: bytes) -> nibabel.Nifti1Header:
    """The header as stored: nibabel's own loading repairs bad spacings without a word."""
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if len(data) < kind.template_dtype.itemsize:
            continue
        try:
            header = kind.from_fileobj(io.BytesIO(data), check=False)
        except Exception:
            continue
        if header["sizeof_hdr"] == kind.sizeof_hdr and bytes(header["magic"].item())[:2] == b"n+":
            return header
    raise BadInput("not_nifti", "there is no NIfTI header with its data in the same file")


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


def _check_scan(scan: Scan) -> None:
    """Refuses geometry that no scanner makes, and what is no volume."""
    spacing = affines.voxel_sizes(scan.affine)
    low, high = SPACING_MM
    if not np.isfinite(scan.affine).all() or (spacing < low).any() or (spacing > high).any():
        sizes = " x ".join(f"{s:.4g}" for s in spacing)
        raise BadInput("bad_spacing", f"voxels of {sizes} mm; {low} to {high} is believed")
    if abs(np.linalg.det(scan.affine[:3, :3] / spacing)) < 0.1:
        raise BadInput("bad_affine", "the axes of the scan do not span a space")
    if min(scan.voxels.shape) < MIN_SLICES:
        raise BadInput(
            "too_few_slices",
            f"the shape {scan.voxels.shape}; at least {MIN_SLICES} along each axis",
        )


def _to_hu(voxels: np.ndarray) -> np.ndarray:
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
    # Padding is one value, and may fill most of a scan; air that lies this low was rescaled twice.
    if low < -1500 and np.count_nonzero((voxels < -1500) & (voxels != low)) > voxels.size / 2:
        raise BadInput("double_rescale", "most voxels lie below -1500 HU: rescaled twice?")
    clipped = np.clip(voxels, AIR_HU, HIGHEST_HU)
    return (np.rint(clipped) if voxels.dtype.kind == "f" else clipped).astype(np.int16, copy=False)


def _whole_numbers(voxels: np.ndarray) -> np.ndarray:
    """A mask's voxels as int32; refuses what is not a set of whole numbers."""
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels) & (voxels == np.rint(voxels))).all():
        raise BadInput("mask_values", "the mask does not hold whole numbers")
    numbers = np.unique(voxels)
    if len(numbers) > 256 or numbers[0] < 0:
        raise BadInput("mask_values", f"the mask holds {len(numbers)} different values from {numbers[0]} on")
    return voxels.astype(np.int32)
