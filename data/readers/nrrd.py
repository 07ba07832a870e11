"""Reads an NRRD (`.nrrd`, `.nhdr` with its data file) by itself, by teem's definition of the format."""

import re
from pathlib import Path

import numpy as np
from nibabel import affines

from data.readers import payload
from data.readers.files import BadInput
from data.readers.hounsfield import VolumeStream

MAX_HEADER = 1 << 20
TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: dtype for dtype, names in TYPES.items() for name in names.split(", ")}
# What each space counts toward, in LPS. The other spaces say nothing of the patient.
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
MILLIMETRES = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "": 1.0}
MAGIC = re.compile(rb"NRRD000[1-5]\s*\n")
VECTOR = re.compile(r"none|\(([^()]*)\)", re.IGNORECASE)


def read(path: Path) -> VolumeStream:
    """The volume of a header and its voxels. Raises BadInput."""
    fields, end = _fields(path)
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        dtype = np.dtype(DTYPES[fields["type"].lower()])
        if int(fields["dimension"]) != len(sizes):
            raise ValueError("dimension")
        order = {"little": "<", "big": ">"}[fields["endian"].lower()] if dtype.itemsize > 1 else "|"
        coding = fields["encoding"].lower()
    except (KeyError, ValueError) as error:
        raise BadInput("bad_header", "dimension, sizes, type, endian or encoding is missing or unknown") from error
    if coding not in ("raw", "gzip", "gz"):
        raise BadInput("unsupported_header", "NRRD coding other than raw and gzip")
    if {"oldmin", "oldmax"} & fields.keys():
        raise BadInput("unsupported_header", "numbers that old min and old max say were quantised")
    directions = _directions(fields, sizes)
    shape = tuple(size for size, direction in zip(sizes, directions, strict=True) if direction is not None)
    payload.check_shape(shape)
    body = _payload(path, fields, end, coding != "raw", dtype.newbyteorder(order), shape)
    return VolumeStream(shape, _affine(fields, directions), payload.slabs(body), dtype.itemsize)


def data_file(path: Path) -> str:
    """The name of the file that holds a header's voxels, "" for the header's own. Raises BadInput."""
    return _fields(path)[0].get("datafile", "")


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's `field: value` lines, names in lower case without blanks, and where the header ends.

    `key:=value` lines are someone's own notes.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        if not MAGIC.fullmatch(stream.readline(16)):
            raise BadInput("not_nrrd", "the file does not start as NRRD does")
        while line := stream.readline(MAX_HEADER):
            if stream.tell() > MAX_HEADER:
                raise BadInput("bad_header", "the header does not end")
            text = line.decode("latin-1").rstrip()
            if not text:
                break
            if text.startswith("#"):
                continue
            name, mark, value = text.partition(":")
            if value.startswith("="):
                continue
            if not mark or name != name.strip() or (value and not value.startswith(" ")):
                raise BadInput("bad_header", "a line that is not a field of an NRRD header")
            name = name.lower().replace(" ", "")
            if name in fields:
                raise BadInput("bad_header", "a field is in the header twice")
            fields[name] = value.strip()
        return fields, stream.tell()


def _directions(fields: dict[str, str], sizes: list[int]) -> list[np.ndarray | None]:
    """The step along each axis in the header's space; None for an axis of one element that has none."""
    if fields.get("space", "").lower() not in SPACES or "spacedirections" not in fields:
        raise BadInput("no_orientation", "no space that names sides of the patient, or no space directions")
    vectors = [_vector(match) for match in VECTOR.finditer(fields["spacedirections"])]
    if len(vectors) != len(sizes) or VECTOR.sub("", fields["spacedirections"]).strip():
        raise BadInput("bad_header", "space directions do not have one vector for each axis")
    if any(vector is None and size != 1 for vector, size in zip(vectors, sizes, strict=True)):
        raise BadInput("not_scalar", "several numbers a voxel: colours, vectors or times")
    if sum(vector is not None for vector in vectors) != 3:
        raise BadInput("not_3d", f"{len(sizes)} axes, of which three must have a direction")
    return vectors


def _vector(match: re.Match[str]) -> np.ndarray | None:
    """Three finite numbers, or None for "none"."""
    if match.group(1) is None:
        return None
    try:
        numbers = np.array([float(number) for number in match.group(1).split(",")])
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise BadInput("bad_header", "a vector of space that does not have three numbers")
    return numbers


def _affine(fields: dict[str, str], directions: list[np.ndarray | None]) -> np.ndarray:
    """Index to millimetres in LPS, (4, 4)."""
    origin = np.zeros(3)
    if "spaceorigin" in fields:
        match = VECTOR.fullmatch(fields["spaceorigin"])
        origin = _vector(match) if match else None
        if origin is None:
            raise BadInput("bad_header", "space origin is not a vector")
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", '"mm" "mm" "mm"'))
    if len(units) != 3 or not {unit.strip().lower() for unit in units} <= MILLIMETRES.keys():
        raise BadInput("bad_spacing", "space units that are no lengths")
    scale = np.array([MILLIMETRES[unit.strip().lower()] for unit in units]) * SPACES[fields["space"].lower()]
    columns = np.stack([direction for direction in directions if direction is not None], axis=1)
    return affines.from_matvec(columns * scale[:, None], origin * scale)


def _payload(
    path: Path, fields: dict[str, str], end: int, packed: bool, dtype: np.dtype, shape: tuple[int, int, int]
) -> payload.Payload:
    """Where the voxels lie."""
    name = fields.get("datafile", "")
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInput("unsupported_header", "NRRD with one data file a slice")
    try:
        lines, skip = (int(fields.get(name, "0")) for name in ("lineskip", "byteskip"))
    except ValueError as error:
        raise BadInput("bad_header", "line skip or byte skip is not a number") from error
    if lines or (skip and packed):
        raise BadInput("unsupported_header", "NRRD with line skip, or with byte skip within a compressed stream")
    file, start = (payload.beside(path, name), 0) if name else (path, end)
    if skip < -1:
        raise BadInput("bad_header", "byte skip is negative")
    if skip == -1:  # the voxels are the end of the file
        start = file.stat().st_size - int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if start < (0 if name else end):
            raise BadInput("truncated", "the file is shorter than its voxels")
    return payload.Payload(file, start + max(skip, 0), packed, dtype, shape)
