"""MetaImage, NRRD and NIfTI headers that are generated, read by us and by SimpleITK: the same scan, or a refusal."""

import gzip
import zlib

import hypothesis
import nibabel
import numpy as np
import SimpleITK
from hypothesis import strategies as st
from nibabel import affines

from tests.data.readers import headers
from tests.data.readers.headers import compared, directions, generated, origins, scans, spacings

META_TYPES = {"MET_SHORT": "i2", "MET_INT": "i4", "MET_LONG": "i4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
META_TYPES |= {"MET_LONG_LONG": "i8"}
NRRD_TYPES = {"short": "i2", "int16": "i2", "int": "i4", "int32_t": "i4", "float": "f4", "double": "f8"}
NRRD_TYPES |= {"signed short": "i2", "longlong": "i8"}
SPACES = {"left-posterior-superior": (1, 1, 1), "LPS": (1, 1, 1), "RAS": (-1, -1, 1), "LAS": (1, -1, 1)}
SPACES |= {"right-anterior-superior": (-1, -1, 1), "left-anterior-superior": (1, -1, 1)}
ODD = ("twice", "case", "mark", "blank", "missing")  # ways to write a field that two readers may understand differently


def numbers(values):
    return " ".join(f"{value:.17g}" for value in np.ravel(values))


def written(draw, lines, mark):
    """Header lines of (name, value); in every third header one of them is written oddly."""
    at = draw(st.integers(0, len(lines) - 2)) if draw(st.integers(0, 2)) == 0 else -1
    odd = draw(st.sampled_from(ODD)) if at >= 0 else ""
    out = []
    for number, (name, value) in enumerate(lines):
        if number != at:
            out.append(f"{name}{mark} {value}")
        elif odd == "twice":
            first, _, rest = value.partition(" ")
            out += [f"{name}{mark} {value}", f"{name}{mark} {'7' if first.isdigit() else first} {rest}"]
        elif odd != "missing":
            spelt = {"case": name.swapcase(), "blank": f"  {name} "}.get(odd, name)
            out.append(f"{spelt}{':=' if odd == 'mark' else mark} {value}")
    return out


@st.composite
def metaimages(draw):
    """(header lines, voxels as bytes, data file's name or LOCAL)."""
    hu = draw(scans())
    kind = draw(st.sampled_from(sorted(META_TYPES)))
    big, packed = draw(st.booleans()), draw(st.booleans())
    body = hu.astype((">" if big else "<") + META_TYPES[kind]).tobytes("F")
    local, skip = draw(st.booleans()), draw(st.sampled_from((0, 0, 0, 12, -1)))
    if packed:
        body = zlib.compress(body)
    if not local and skip:
        body = b"x" * 12 + body
    lines = [("ObjectType", "Image"), ("NDims", "3"), ("BinaryData", "True")]
    lines += [(draw(st.sampled_from(("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))), str(big))]
    lines += [("CompressedData", str(packed))]
    if packed and draw(st.integers(0, 3)):
        lines += [("CompressedDataSize", str(draw(st.sampled_from((len(body), len(body), 0, 40, len(body) + 9)))))]
    if draw(st.integers(0, 4)):
        matrix = draw(directions()).T  # a row for each axis
        lines += [(draw(st.sampled_from(("TransformMatrix", "Rotation", "Orientation"))), numbers(matrix))]
    lines += [(draw(st.sampled_from(("Offset", "Position", "Origin"))), numbers(draw(origins())))]
    lines += [("CenterOfRotation", "0 0 0"), ("AnatomicalOrientation", draw(st.sampled_from(("RAI", "LPS", "???"))))]
    sizes = draw(spacings())
    if draw(st.integers(0, 9)) == 0:
        sizes[draw(st.integers(0, 2))] *= -1
    lines += [("ElementSpacing", numbers(sizes))]
    if draw(st.integers(0, 4)) == 0:
        lines += [("ElementSize", numbers(draw(spacings())))]
    if draw(st.integers(0, 4)) == 0:
        lines += [("ElementNumberOfChannels", draw(st.sampled_from(("1", "1", "2"))))]
    if draw(st.integers(0, 9)) == 0:
        lines += [("Comment", "NDims = 2")]
    lines += [("DimSize", numbers(hu.shape)), ("ElementType", kind)]
    if not local and (skip or draw(st.booleans())):
        lines += [("HeaderSize", str(skip))]
    name = "LOCAL" if local else "ct.raw"
    return written(draw, [*lines, ("ElementDataFile", name)], " ="), body, local


def write_metaimage(image):
    lines, body, local = image

    def write(folder):
        path = folder / ("ct.mha" if local else "ct.mhd")
        path.write_bytes(("\n".join(lines) + "\n").encode() + (body if local else b""))
        if not local:
            (folder / "ct.raw").write_bytes(body)
        return path

    return write


@st.composite
def nrrds(draw):
    """(header, voxels as bytes, whether they are in the file of the header)."""
    hu = draw(scans())
    kind = draw(st.sampled_from(sorted(NRRD_TYPES)))
    big = draw(st.booleans())
    coding = draw(st.sampled_from(("raw", "gzip", "gz")))
    body = hu.astype((">" if big else "<") + NRRD_TYPES[kind]).tobytes("F")
    body = body if coding == "raw" else gzip.compress(body, mtime=0)
    space = draw(st.sampled_from((*SPACES, "scanner-xyz", "3D-right-handed")))
    steps = draw(directions()) * draw(spacings())
    vectors = ["(" + ",".join(f"{v:.17g}" for v in step) + ")" for step in steps.T]
    sizes = [str(n) for n in hu.shape]
    lines = [("type", kind), ("dimension", str(len(sizes))), ("space", space), ("sizes", " ".join(sizes))]
    lines += [("space directions", " ".join(vectors)), ("endian", "big" if big else "little")]
    if draw(st.integers(0, 4)):
        lines += [("space origin", "(" + ",".join(f"{v:.17g}" for v in draw(origins())) + ")")]
    if draw(st.integers(0, 4)) == 0:
        lines += [("space units", '"mm" "mm" "mm"')]
    local, skip = draw(st.booleans()), draw(st.sampled_from((0, 0, 0, 0, 12, -1)))
    if skip and coding == "raw":
        body = b"x" * 12 + body
        lines += [("byte skip", str(skip))]
    lines += [("encoding", coding)] + ([] if local else [("data file", "ct.raw")])
    text = ["NRRD0005", "# someone's note", *written(draw, lines, ":")]
    if draw(st.integers(0, 3)) == 0:
        text.insert(
            draw(st.integers(2, len(text))), draw(st.sampled_from(("sizes:=9 9 9", "space:=RAS", "my note:=a: b")))
        )
    return "\n".join(text) + ("\n\n" if local else "\n"), body, local


def judged_metaimage(path):
    """By SimpleITK, which needs the right size of a compressed stream: without it it gives memory of other images."""
    header, mark, body = path.read_bytes().partition(b"ElementDataFile")
    size = len(body.partition(b"\n")[2]) if path.suffix == ".mha" else (path.parent / "ct.raw").stat().st_size
    if path.suffix == ".mhd" and b"HeaderSize = 12" in header:
        size -= 12
    lines = [line for line in header.split(b"\n") if not line.startswith(b"CompressedDataSize")]
    if b"CompressedData = True" in header:
        lines.insert(3, b"CompressedDataSize = %d" % size)
    path.write_bytes(b"\n".join(lines) + mark + body)
    return judged(path)


def write_nrrd(image):
    header, body, local = image

    def write(folder):
        path = folder / ("ct.nrrd" if local else "ct.nhdr")
        path.write_bytes(header.encode() + (body if local else b""))
        if not local:
            (folder / "ct.raw").write_bytes(body)
        return path

    return write


@st.composite
def niftis(draw):
    """The bytes of a NIfTI-1 or -2, and whether they are packed."""
    hu = draw(scans())
    slope, shift = draw(st.sampled_from(((1, 0), (0, 0), (1, -1024), (2, -1024), (0.5, 100), (np.nan, 0), (-1, 7))))
    raw = hu if not np.isfinite(slope) or slope == 0 else np.rint((hu.astype(float) - shift) / slope)
    dtype = draw(st.sampled_from(("i2", "i4", "f4", "f8", "u2", "i8")))
    kind = draw(st.sampled_from((nibabel.Nifti1Image, nibabel.Nifti2Image)))
    header = kind.header_class(endianness=draw(st.sampled_from("<>")))
    matrix = np.diag([-1, -1, 1]) @ (draw(directions()) * draw(spacings()))
    place = np.diag([-1, -1, 1]) @ draw(origins())
    affine = affines.from_matvec(matrix, place)
    low = 0 if dtype == "u2" else -32768
    voxels = np.clip(raw, low, 32767 if dtype != "u2" else 65535).astype(dtype)
    if draw(st.integers(0, 5)) == 0:
        voxels = voxels[..., None]
    image = kind(voxels, affine, header)
    image.set_sform(affine, draw(st.integers(0, 4)))
    image.set_qform(affine, draw(st.integers(0, 4)))
    image.header.set_xyzt_units("mm")
    head = image.header.copy()
    head.set_data_dtype(dtype)
    head["scl_slope"], head["scl_inter"] = slope, shift
    start = int(head.sizeof_hdr) + 4 + draw(st.sampled_from((0, 0, 0, 16, 4, -4, 0.5)))
    head["magic"], head["vox_offset"] = (b"n+1" if kind is nibabel.Nifti1Image else b"n+2\0\r\n\x1a\n"), start
    field = draw(st.sampled_from(("",) * 9 + ("pixdim", "dim", "qfac", "sizeof_hdr", "bitpix", "quatern_c", "srow_x")))
    if field == "pixdim":
        head["pixdim"][draw(st.integers(1, 3))] = draw(st.sampled_from((0, -1, 2.5, np.nan)))
    elif field == "dim":
        head["dim"][draw(st.integers(0, 5))] = draw(st.sampled_from((0, 1, 2, 3, 4, -1)))
    elif field == "qfac":
        head["pixdim"][0] = draw(st.sampled_from((0, 1, -1, 3)))
    elif field == "srow_x":
        head["srow_x"][draw(st.integers(0, 3))] = draw(st.sampled_from((0, 1, np.nan)))
    elif field:
        head[field] = draw(st.sampled_from((0, 1)))
    data = bytearray(head.binaryblock)
    data += bytes(max(0, int(start) - len(data)))
    data[int(start) :] = b""
    return bytes(data) + voxels.astype(head.get_data_dtype() if field != "dim" else dtype).tobytes("F"), draw(
        st.booleans()
    )


def write_nifti(image):
    data, packed = image

    def write(folder):
        path = folder / ("ct.nii.gz" if packed else "ct.nii")
        path.write_bytes(gzip.compress(data, 1, mtime=0) if packed else data)
        return path

    return write


def judged(path):
    """The scan by SimpleITK, or by nibabel where SimpleITK does not know the format (NIfTI-2)."""
    if path.name.startswith("ct.nii") and isinstance(image := nibabel.load(path), nibabel.Nifti2Image):
        lps = np.diag([-1, -1, 1, 1]) @ image.affine
        sizes = affines.voxel_sizes(lps)
        out = SimpleITK.GetImageFromArray(np.asarray(image.dataobj, np.float64).squeeze().transpose(2, 1, 0))
        out.SetSpacing(sizes)
        out.SetOrigin(lps[:3, 3])
        out.SetDirection((lps[:3, :3] / sizes).ravel())
        return out
    image = SimpleITK.ReadImage(str(path))
    return image[..., 0] if image.GetDimension() == 4 else image  # of which one axis is 1 long


@generated
@hypothesis.given(metaimages())
def test_metaimage(image):
    hypothesis.event(f"read: {compared(write_metaimage(image), judged_metaimage)}")


@generated
@hypothesis.given(nrrds())
def test_nrrd(image):
    hypothesis.event(f"read: {compared(write_nrrd(image), judged)}")


@generated
@hypothesis.given(niftis())
def test_nifti(image):
    hypothesis.event(f"read: {compared(write_nifti(image), judged)}")


def test_the_comparison_sees_a_difference(tmp_path):
    """A judge of the judge: another spacing, a mirrored axis and one other voxel are all noticed."""
    hu = np.full((5, 6, 7), -1000, np.int16)
    hu[2:4, 1:3, 2:6] = 40
    image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / "ct.nrrd"))
    scan = headers.ours(tmp_path / "ct.nrrd")
    headers.same_scan(scan, image)
    other = hu.copy()
    other[3, 2, 5] = 700
    wrong = [SimpleITK.GetImageFromArray(voxels.transpose(2, 1, 0)) for voxels in (other, hu[::-1], hu + 5)]
    wider = SimpleITK.Image(image)
    wider.SetSpacing((1, 1, 1.01))
    for one in (*wrong, wider):
        try:
            headers.same_scan(scan, one)
        except AssertionError:
            continue
        raise AssertionError("not noticed")
