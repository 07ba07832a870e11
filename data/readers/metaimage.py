"""Reads a MetaImage (`.mha`, `.mhd` with its data file) by itself: SimpleITK gives memory that it never wrote.

Geometry is what ITK's reader means by it (itkMetaImageIO): axes are rows of TransformMatrix, world space is LPS.
"""

import re
from pathlib import Path

import numpy as np
from nibabel import affines

from data.readers import payload
from data.readers.files import BadInput
from data.readers.hounsfield import VolumeStream

MAX_HEADER = 1 << 16
LOCAL = "LOCAL"  # ElementDataFile of voxels that lie behind the header
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # of the machines that MetaImage was made for
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
OFFSETS = ("Offset", "Position", "Origin")  # three names of one field each
MATRICES = ("TransformMatrix", "Rotation", "Orientation")
BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
SINGLE = (
    "ObjectType NDims DimSize ElementType ElementSpacing ElementNumberOfChannels BinaryData CompressedData HeaderSize "
    "DistanceUnits ElementToIntensityFunctionSlope ElementToIntensityFunctionOffset ElementDataFile"
)
FIELDS = {name.lower(): name for name in (*SINGLE.split(), *OFFSETS, *MATRICES, *BYTE_ORDERS)}
LINE = re.compile(r"\s*([^=:]*?)\s*([=:])(.*)", re.DOTALL)
UNIT = 0.01  # by which a direction may miss unit length


def read(path: Path) -> VolumeStream:
    """The volume of a header and its voxels. Raises BadInput."""
    fields, end = _fields(path)
    shape, dtype = _shape_and_type(fields)
    body = _payload(path, fields, end, dtype, shape)
    return VolumeStream(shape, _affine(fields, len(fields["DimSize"].split())), payload.slabs(body), dtype.itemsize)


def data_file(path: Path) -> str:
    """The name of the file that holds a header's voxels, "" for the header's own. Raises BadInput."""
    name = _fields(path)[0].get("ElementDataFile", "")
    return "" if name.upper() == LOCAL else name


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields that are read, and where the header ends. Refuses what two readers may understand differently."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < MAX_HEADER and "ElementDataFile" not in fields:
            line = stream.readline(MAX_HEADER)
            if not line:
                break
            match = LINE.match(line.decode("latin-1"))
            if not match:
                if line.strip():
                    raise BadInput("bad_header", "a line that is not a field of a MetaImage header")
                continue
            name, mark, value = match.groups()
            known = FIELDS.get(name.lower())
            if known is None:
                continue
            if name != known or mark != "=" or known in fields:
                raise BadInput("bad_header", f"{known} is written twice, or not as MetaImage writes it")
            fields[known] = value.strip()
        end = stream.tell()
    for names in (OFFSETS, MATRICES, BYTE_ORDERS):
        if sum(name in fields for name in names) > 1:
            raise BadInput("bad_header", f"more than one of {', '.join(names)}")
    return fields, end


def _shape_and_type(fields: dict[str, str]) -> tuple[tuple[int, int, int], np.dtype]:
    try:
        sizes = [int(size) for size in fields["DimSize"].split()]
        dimensions, channels = int(fields["NDims"]), int(fields.get("ElementNumberOfChannels", "1"))
        dtype = np.dtype(TYPES[fields["ElementType"]])
        if dimensions != len(sizes) or "ElementDataFile" not in fields:
            raise ValueError("NDims")
    except (KeyError, ValueError) as error:
        raise BadInput("bad_header", "NDims, DimSize, ElementType or ElementDataFile is missing or unknown") from error
    if fields.get("ObjectType", "Image") != "Image":
        raise BadInput("bad_header", "a MetaIO object that is not an image")
    if channels != 1:
        raise BadInput("not_scalar", "one number for each voxel is needed")
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise BadInput("not_3d", f"the image has the shape {tuple(sizes)}")
    payload.check_shape(tuple(sizes))
    order = ">" if any(_flag(fields, name) for name in BYTE_ORDERS) else "<"
    return (sizes[0], sizes[1], sizes[2]), dtype.newbyteorder(order)


def _affine(fields: dict[str, str], dimensions: int) -> np.ndarray:
    """Index to millimetres in LPS, (4, 4)."""
    spacing = _numbers(fields, ("ElementSpacing",), dimensions)
    if spacing is None or (spacing[:3] <= 0).any():
        # ITK takes the size of a negative one and mirrors nothing; other readers mirror.
        raise BadInput("bad_spacing", "ElementSpacing is missing or not positive")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise BadInput("bad_spacing", "DistanceUnits other than mm")
    matrix, offset = _numbers(fields, MATRICES, dimensions**2), _numbers(fields, OFFSETS, dimensions)
    matrix = np.eye(dimensions) if matrix is None else matrix.reshape(dimensions, dimensions)
    directions = matrix[:3, :3].T  # a row for each axis
    if (np.abs(np.linalg.norm(directions, axis=0) - 1) > UNIT).any():
        raise BadInput("bad_affine", "the axes of TransformMatrix are no unit vectors")
    return affines.from_matvec(directions * spacing[:3], np.zeros(3) if offset is None else offset[:3])


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int) -> np.ndarray | None:
    """The numbers of the only field of these names; None where there is none."""
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return None
    try:
        numbers = np.array([float(number) for number in text.split()])
    except ValueError:
        numbers = np.array([])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise BadInput("bad_header", f"{names[0]} does not have {count} numbers")
    return numbers


def _flag(fields: dict[str, str], name: str, default: str = "False") -> bool:
    value = fields.get(name, default).lower()
    if value not in ("true", "false", "1", "0"):
        raise BadInput("bad_header", f"{name} is neither True nor False")
    return value in ("true", "1")


def _payload(
    path: Path, fields: dict[str, str], end: int, dtype: np.dtype, shape: tuple[int, int, int]
) -> payload.Payload:
    """Where the voxels lie. CompressedDataSize is not read: the stream knows its own end."""
    name, packed = fields["ElementDataFile"], _flag(fields, "CompressedData")
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInput("unsupported_header", "MetaImage with one data file a slice")
    if not _flag(fields, "BinaryData", "True"):
        raise BadInput("unsupported_header", "MetaImage with voxels as text")
    slope, shift = (_numbers(fields, (f"ElementToIntensityFunction{part}",), 1) for part in ("Slope", "Offset"))
    if (slope is not None and slope[0] != 1) or (shift is not None and shift[0] != 0):
        raise BadInput("unsupported_header", "MetaImage with a slope, which ITK does not apply")
    try:
        skip = int(fields.get("HeaderSize", "0"))
    except ValueError as error:
        raise BadInput("bad_header", "HeaderSize is not a number") from error
    if name.upper() == LOCAL:
        if skip:
            raise BadInput("unsupported_header", "HeaderSize, with voxels in the file of the header")
        return payload.Payload(path, end, packed, dtype, shape)
    file = payload.beside(path, name)
    if skip < -1 or (skip == -1 and packed):
        raise BadInput("bad_header", "HeaderSize does not say where the voxels begin")
    if skip == -1:  # the voxels are the end of the file
        skip = file.stat().st_size - int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if skip < 0:
            raise BadInput("truncated", "the file is shorter than its voxels")
    return payload.Payload(file, skip, packed, dtype, shape)
