"""Reads a NIfTI-1 or -2 (`.nii`, `.nii.gz`, `.hdr` with `.img`) as bytes, to the last one.

Both nibabel and SimpleITK can miss a damaged or missing end.
"""

import contextlib
import functools
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from isal import igzip

from data.readers import nifti_affine, payload
from data.readers.files import BadInput, check_file
from data.readers.hounsfield import VolumeStream

MAX_BYTES = 1 << 32  # of voxels as stored: twice the largest chest that scanners make, 1,500 slices as float32
MAX_START = 1 << 26  # of bytes before the voxels: the header and its extensions
DEFLATE_RATIO = 1032  # deflate packs no tighter: a header that claims more is wrong

Opener = Callable[[], BinaryIO]


def read(path: Path, assume: str) -> VolumeStream:
    """The volume of a `.nii` or `.nii.gz`; `assume` as in `nifti_affine.of_header`. Raises BadInput."""
    packed = path.name.lower().endswith(".gz")
    if packed:
        _check_gzip(path)
    opened = functools.partial(igzip.open if packed else open, path, "rb")
    with payload.refusals(), opened() as stream:
        header = _header(stream.read(544), b"n+")
    room = path.stat().st_size * (DEFLATE_RATIO if packed else 1)
    return _stack(header, opened, room, assume, packed=packed)


def read_pair(path: Path, assume: str) -> VolumeStream:
    """The volume of a `.hdr` and the `.img` beside it; either may be named. A link to the other may not lead away."""
    head, body = (
        path if path.suffix == suffix else payload.beside(path, path.with_suffix(suffix).name)
        for suffix in (".hdr", ".img")
    )
    check_file(path)
    with payload.refusals(), head.open("rb") as stream:
        header = _header(stream.read(544), b"ni")
    return _stack(header, functools.partial(open, body, "rb"), body.stat().st_size, assume, packed=False)


def _stack(header: nibabel.Nifti1Header, opened: Opener, room: int, assume: str, *, packed: bool) -> VolumeStream:
    shape, start = _shape(header), _start(header)
    dtype = header.get_data_dtype()
    _check_length(math.prod(shape) * dtype.itemsize, start, room)

    @contextlib.contextmanager
    def at_voxels() -> Iterator[BinaryIO]:
        with opened() as stream:
            stream.seek(start)
            yield stream

    # Only a compressed stream has a checksum behind what may follow the voxels.
    slabs = payload.read_slabs(at_voxels, dtype, shape, "nifti_short", checksum=packed)
    scaled = (_scaled(slab, header) for slab in slabs)
    return VolumeStream(shape, nifti_affine.of_header(header, assume), scaled, dtype.itemsize)


def _start(header: nibabel.Nifti1Header) -> int:
    """Where the voxels begin. Raises BadInput for a place within the header, or none at all."""
    offset = float(header["vox_offset"])
    single = bytes(header["magic"].item())[:2] == b"n+"
    first = int(header["sizeof_hdr"]) + 4 if single else 0  # four bytes announce extensions
    if not first <= offset <= MAX_START or offset != int(offset):
        raise BadInput("nifti_header", f"vox_offset is {offset:g}, but voxels begin at {first} or later")
    return int(offset)


def _scaled(voxels: np.ndarray, header: nibabel.Nifti1Header) -> np.ndarray:
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if (slope not in (0.0, 1.0) and np.isfinite(slope)) or (slope == 1 and intercept):
        if not np.isfinite(intercept):
            raise BadInput("nifti_header", "the slope is a number, the intercept is none")
        return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return voxels


def _check_gzip(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            raise BadInput("not_gzip", "the name ends in .gz, the bytes are no gzip stream")


def _check_length(voxels: int, start: int, room: int) -> None:
    """Refuses, before anything is allocated, a header that claims more than the file has `room` for."""
    if voxels > MAX_BYTES:
        raise BadInput("too_large", f"the header claims {voxels} bytes of voxels, at most {MAX_BYTES}")
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
        raise BadInput("not_scalar", "one number for each voxel is needed, not colours or complex numbers")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise BadInput("not_3d", f"the image has the shape {tuple(shape)}")
    payload.check_shape(shape)
    return tuple(int(n) for n in shape[:3])
