"""Reads a NIfTI-1 or -2 (`.nii`, `.nii.gz`, `.hdr` with `.img`) as bytes, to the last one.

Both nibabel and SimpleITK can miss a damaged or missing end.
"""

import contextlib
import functools
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np

from data.readers import headers
from data.readers.files import BadInput, check_file
from data.readers.hounsfield import SLAB_BYTES, VolumeStream

MAX_VOXELS = 1 << 31
MAX_BYTES = 1 << 32  # of voxels as stored: twice the largest chest that scanners make, 1,500 slices as float32
DEFLATE_RATIO = 1032  # deflate packs no tighter: a header that claims more is wrong

Opener = Callable[[], BinaryIO]


def read(path: Path, assume: str) -> VolumeStream:
    """The volume of a `.nii` or `.nii.gz`; `assume` as in `headers.nifti_affine`. Raises BadInput."""
    packed = path.name.lower().endswith(".gz")
    if packed:
        _check_gzip(path)
    opened = functools.partial(gzip.open if packed else open, path, "rb")
    with _refusals(), opened() as stream:
        header = _header(stream.read(544), b"n+")
    return _stack(header, opened, path.stat().st_size * (DEFLATE_RATIO if packed else 1), assume)


def read_pair(path: Path, assume: str) -> VolumeStream:
    """The volume of a `.hdr` and the `.img` beside it; either may be named."""
    head, body = path.with_suffix(".hdr"), path.with_suffix(".img")
    check_file(head)
    check_file(body)
    with _refusals(), head.open("rb") as stream:
        header = _header(stream.read(544), b"ni")
    return _stack(header, functools.partial(open, body, "rb"), body.stat().st_size, assume)


def _stack(header: nibabel.Nifti1Header, opened: Opener, room: int, assume: str) -> VolumeStream:
    shape = _shape(header)
    _check_length(header, shape, room)
    return VolumeStream(shape, headers.nifti_affine(header, assume), _slabs(header, shape, opened))


def _slabs(header: nibabel.Nifti1Header, shape: tuple[int, int, int], opened: Opener) -> Iterator[np.ndarray]:
    dtype = header.get_data_dtype()
    plane = shape[0] * shape[1] * dtype.itemsize
    thickness = max(1, SLAB_BYTES // plane)
    with _refusals(), opened() as stream:
        stream.seek(int(header["vox_offset"]))
        for start in range(0, shape[2], thickness):
            length = plane * min(thickness, shape[2] - start)
            data = stream.read(length)
            if len(data) < length:
                raise BadInput("nifti_short", f"the voxels end after {start * plane + len(data)} bytes")
            yield _scaled(np.frombuffer(data, dtype).reshape((*shape[:2], -1), order="F"), header)
        while stream.read(1 << 20):  # the checksum comes after whatever follows
            pass


def _scaled(voxels: np.ndarray, header: nibabel.Nifti1Header) -> np.ndarray:
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if (slope not in (0.0, 1.0) and np.isfinite(slope)) or (slope == 1 and intercept):
        if not np.isfinite(intercept):
            raise BadInput("nifti_header", "the slope is a number, the intercept is none")
        return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return voxels if voxels.dtype.isnative else voxels.astype(voxels.dtype.newbyteorder("="))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns the errors of a stream into the ledger's words."""
    try:
        yield
    except EOFError as error:
        raise BadInput("gzip_truncated", "the compressed stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput("gzip_crc", "the compressed stream is damaged") from error
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error


def _check_gzip(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            raise BadInput("not_gzip", "the name ends in .gz, the bytes are no gzip stream")


def _check_length(header: nibabel.Nifti1Header, shape: tuple[int, ...], room: int) -> None:
    """Refuses, before anything is allocated, a header that claims more than the file has `room` for."""
    start, voxels = int(header["vox_offset"]), math.prod(shape) * header.get_data_dtype().itemsize
    if start < 0 or voxels > MAX_BYTES:
        raise BadInput("too_large", f"the header claims {voxels} bytes of voxels from {start} on, at most {MAX_BYTES}")
    if start + voxels > room:
        raise BadInput("nifti_short", f"at most {room} bytes, the header says {start + voxels}")


def _header(data: bytes, magic: bytes) -> nibabel.Nifti1Header:
    """The header as stored: nibabel's own loading repairs bad spacings silently."""
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


def _shape(header: nibabel.Nifti1Header) -> tuple[int, int, int]:
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
