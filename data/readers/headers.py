"""Header facts that the libraries do not check: NIfTI orientation, length of MetaImage and NRRD data."""

import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel import affines

from data.readers.files import BadInput, check_file

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7: unknown, metre, millimetre, micron
# Types of MetaImage and NRRD, by their bytes.
TYPES = {
    1: "met_char, met_uchar, signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "met_short, met_ushort, short, short int, signed short, signed short int, int16, int16_t, ushort, "
    "unsigned short, unsigned short int, uint16, uint16_t",
    4: "met_int, met_uint, met_long, met_ulong, met_float, int, signed int, int32, int32_t, uint, unsigned int, "
    "uint32, uint32_t, float",
    8: "met_long_long, met_ulong_long, met_double, longlong, long long, int64, int64_t, ulonglong, uint64, uint64_t, "
    "double",
}
BYTES = {name: size for size, names in TYPES.items() for name in names.split(", ")}
META_VECTORS = ("offset", "origin", "position", "elementspacing", "elementsize", "centerofrotation")
META_MATRICES = ("transformmatrix", "rotation", "orientation")
MAX_HEADER = 1 << 20
MAX_BYTES = 1 << 33


def nifti_affine(header: nibabel.Nifti1Header, assume: str = "") -> np.ndarray:
    """Index to millimetres in LPS, from sform before qform. Raises BadInput where they are missing or disagree.

    `assume` is used where both are missing: the directions in which the three axes grow, such as "LPS" or "RAS".
    """
    scale = MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if scale is None:
        raise BadInput("bad_spacing", "the header's unit of length is none that NIfTI knows")
    sizes = np.array(header["pixdim"][1:4], np.float64)
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise BadInput("bad_spacing", f"pixdim is {', '.join(f'{s:g}' for s in sizes)}")
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform and assume:
        return affines.from_matvec(_directions(assume) * sizes * scale)
    if not has_sform and not has_qform:
        raise BadInput(
            "no_orientation", "neither sform nor qform is set: left and right are unknown (config.assume=LPS tells)"
        )
    try:
        sform = header.get_sform() if has_sform else None
        qform = header.get_qform() if has_qform else None
    except Exception as error:
        raise BadInput("bad_affine", "the quaternion of the qform is not valid") from error
    affine = np.array(sform if has_sform else qform, np.float64)
    if not np.isfinite(affine).all():
        raise BadInput("bad_affine", "the affine has NaN or infinite numbers")
    if has_sform and has_qform and np.abs(sform[:3, :3] - qform[:3, :3]).max() > 1e-3 * sizes.max():
        raise BadInput("affine_conflict", "sform and qform give different directions or sizes")
    if np.abs(affines.voxel_sizes(affine) / sizes - 1).max() > 0.01:
        raise BadInput("affine_conflict", "the affine and pixdim give different voxel sizes")
    return np.diag([-scale, -scale, scale, 1.0]) @ affine  # NIfTI counts toward Right and Anterior


def _directions(letters: str) -> np.ndarray:
    """A matrix whose columns are the axes that letters such as "RAS" name, in LPS."""
    toward = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    columns = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        row, sign = toward[letter]
        columns[row, column] = sign
    return columns


def check_payload(path: Path) -> None:
    """Refuses a MetaImage or NRRD whose voxels lie outside its folder, are cut short or are damaged."""
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    fields, end = _fields(path, nrrd=nrrd)
    data_file, expected, packed = (_nrrd_facts if nrrd else _meta_facts)(fields)
    if not 0 < expected <= MAX_BYTES:
        raise BadInput("too_large", f"the header claims {expected} bytes of voxels")
    start = end
    if data_file:
        path, start = _beside(path, data_file), 0
    if nrrd or data_file:
        start += max(int(fields.get("byte skip" if nrrd else "headersize") or 0), 0)
    if fields.get("line skip", "0") != "0":
        raise BadInput("unsupported_header", "NRRD with line skip")
    actual = _unpacked_size(path, start, expected) if packed else path.stat().st_size - start
    if actual < expected:
        raise BadInput("truncated", f"{actual} bytes of voxels, the header says {expected}")


def _fields(path: Path, *, nrrd: bool) -> tuple[dict[str, str], int]:
    """The header's `key: value` or `Key = value` lines, keys in lower case, and where the header ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        if nrrd and not stream.readline(16).startswith(b"NRRD000"):
            raise BadInput("not_nrrd", "the file does not start as NRRD does")
        while stream.tell() < MAX_HEADER:
            line = stream.readline(4096)
            if not line or (nrrd and not line.strip()):
                break
            key, mark, value = line.decode("latin-1").partition(":" if nrrd else "=")
            if mark and not key.startswith("#"):
                fields[key.strip().lower()] = value.lstrip("=").strip()
            if key.strip().lower() == "elementdatafile":
                break
        return fields, stream.tell()


def _meta_facts(fields: dict[str, str]) -> tuple[str, int, bool]:
    """The data file's name ("" = this file), bytes of voxels, and whether they are compressed."""
    try:
        sizes = [int(n) for n in fields["dimsize"].split()]
        _check_meta_numbers(fields, len(sizes))
        expected = math.prod(sizes) * BYTES[fields["elementtype"].lower()]
        expected *= int(fields.get("elementnumberofchannels", "1"))
        name = fields["elementdatafile"]
    except (KeyError, ValueError) as error:
        raise BadInput("bad_header", "DimSize, ElementType or ElementDataFile is missing or unknown") from error
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInput("unsupported_header", "MetaImage with one data file a slice")
    if fields.get("binarydata", "true").lower() != "true":
        raise BadInput("unsupported_header", "MetaImage with voxels as text")
    packed = fields.get("compresseddata", "false").lower() == "true"
    return "" if name.upper() == "LOCAL" else name, expected, packed


def _check_meta_numbers(fields: dict[str, str], dimensions: int) -> None:
    """Raises ValueError unless the header has as many numbers as dimensions: on some of them SimpleITK crashes."""
    if fields.get("ndims") != str(dimensions) or not 2 <= dimensions <= 5:
        raise ValueError("NDims")
    counts = dict.fromkeys(META_VECTORS, dimensions) | dict.fromkeys(META_MATRICES, dimensions**2)
    for name, count in counts.items():
        if name in fields and len([float(n) for n in fields[name].split()]) != count:
            raise ValueError(name)
    for name in ("headersize", "compresseddatasize", "elementnumberofchannels"):
        int(fields.get(name, "0"))


def _nrrd_facts(fields: dict[str, str]) -> tuple[str, int, bool]:
    """The same of an NRRD header."""
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
        if fields["dimension"] != str(len(sizes)) or not 2 <= len(sizes) <= 5:
            raise ValueError("dimension")
        expected = math.prod(sizes) * BYTES[fields["type"].lower()]
        coding = fields["encoding"].lower()
    except (KeyError, ValueError) as error:
        raise BadInput("bad_header", "sizes, type or encoding is missing or unknown") from error
    if not ({"space", "space directions"} <= fields.keys()):
        raise BadInput("no_orientation", "the header has no space and space directions: left and right are unknown")
    if coding not in ("raw", "gzip", "gz"):
        raise BadInput("unsupported_header", "NRRD coding other than raw and gzip")
    name = fields.get("data file", fields.get("datafile", ""))
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInput("unsupported_header", "NRRD with one data file a slice")
    return name, expected, coding != "raw"


def _beside(header: Path, name: str) -> Path:
    """The data file of a header, which must lie in the header's folder, links followed."""
    folder = header.parent.resolve()
    try:
        target = (folder / name).resolve()
        inside = target.parent == folder and not Path(name).is_absolute()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput("bad_header", "the header's data file has no valid name") from error
    if not inside:
        raise BadInput("path_outside", "the header's data file lies outside the header's folder: copy it in")
    check_file(target)
    return target


def _unpacked_size(path: Path, start: int, expected: int) -> int:
    """Bytes that the zlib or gzip stream from `start` holds, its checksum included in the test."""
    unpack = zlib.decompressobj(wbits=47)  # zlib or gzip, by its first bytes
    size = 0
    with path.open("rb") as stream:
        stream.seek(start)
        try:
            while not unpack.eof and (packed := stream.read(1 << 20)):
                while packed:
                    size += len(unpack.decompress(packed, 1 << 24))
                    packed = unpack.unconsumed_tail
                    if size > expected + (1 << 24):
                        raise BadInput("too_large", "more voxels are packed than the header says")
        except zlib.error as error:
            raise BadInput("gzip_crc", "the compressed voxels are damaged") from error
    if not unpack.eof:
        raise BadInput("gzip_truncated", "the compressed voxels end early")
    return size
