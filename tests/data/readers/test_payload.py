"""Voxels behind a MetaImage or NRRD header: streams that lie about their size, and how far they are read."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK

from data.readers import memory, metaimage, nrrd, payload, volumes, xrays
from data.readers.files import BadInput

SHAPE = (8, 7, 6)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {packed}\n"
    "{more}TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 2 2 4\nDimSize = 8 7 6\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 8 7 6\n"
    "space directions: (2,0,0) (0,2,0) (0,0,4)\nendian: little\nencoding: {coding}\nspace origin: (1,2,3)\n{more}\n"
)


@pytest.fixture(scope="module")
def hu():
    return np.random.default_rng(0).integers(-1000, 900, SHAPE).astype("<i2")


def meta(path, body, *, packed, more=""):
    path.write_bytes(META.format(packed=packed, more=more).encode() + body)
    return path


def write_nrrd(path, body, *, coding="raw", more="", space="left-posterior-superior"):
    path.write_bytes(NRRD.format(coding=coding, more=more, space=space).encode() + body)
    return path


def voxels(stream):
    return np.concatenate(list(stream.slabs), axis=2)


@pytest.mark.parametrize("size", ["", "CompressedDataSize = 0\n", "CompressedDataSize = 30\n"])
def test_a_compressed_metaimage_without_the_size_of_its_stream(hu, tmp_path, size):
    path = meta(tmp_path / "ct.mha", zlib.compress(hu.tobytes("F")), packed=True, more=size)
    np.testing.assert_array_equal(voxels(metaimage.read(path)), hu)


def packed_forms(data):
    return {"mha": zlib.compress(data), "nrrd": gzip.compress(data, mtime=0)}


@pytest.mark.parametrize("kind", ["mha", "nrrd"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda body: body[: len(body) // 2], "gzip_truncated"),
        (lambda body: body[:-4] + bytes(4), "gzip_crc"),
        (lambda body: body[:10] + b"\xff" * 40 + body[50:], "gzip_crc"),
        (lambda body: b"", "gzip_truncated"),
    ],
)
def test_damaged_streams(hu, tmp_path, kind, damage, code):
    body = damage(packed_forms(hu.tobytes("F"))[kind])
    path = tmp_path / f"ct.{kind}"
    stream = (
        metaimage.read(meta(path, body, packed=True))
        if kind == "mha"
        else nrrd.read(write_nrrd(path, body, coding="gzip"))
    )
    with pytest.raises(BadInput, match=code):
        voxels(stream)


@pytest.mark.parametrize("kind", ["mha", "nrrd", "nii.gz"])
def test_a_stream_with_much_more_behind_the_volume_ends_early(hu, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(payload, "MOST_BEHIND", 1 << 21)
    inflated = [0]
    decompressobj = zlib.decompressobj

    class Counted:
        """A decompressor that counts what it gives."""

        def __init__(self, **settings):
            self._inner = decompressobj(**settings)

        def decompress(self, data, size):
            out = self._inner.decompress(data, size)
            inflated[0] += len(out)
            return out

        def __getattr__(self, name):
            return getattr(self._inner, name)

    data = hu.tobytes("F") + bytes(64 << 20)
    path = tmp_path / f"ct.{kind}"
    if kind == "nii.gz":
        image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0))
        SimpleITK.WriteImage(image, str(tmp_path / "plain.nii"))
        path.write_bytes(gzip.compress((tmp_path / "plain.nii").read_bytes() + bytes(64 << 20), 1))
    else:
        monkeypatch.setattr(payload.isal_zlib, "decompressobj", Counted)
        body = packed_forms(data)[kind]
        meta(path, body, packed=True) if kind == "mha" else write_nrrd(path, body, coding="gzip")
    with pytest.raises(BadInput, match="too_large: more than 2 MB"):
        volumes.read_ct(path)
    assert inflated[0] < 8 << 20


def test_what_follows_raw_voxels_is_not_read(hu, tmp_path):
    path = meta(tmp_path / "ct.mha", hu.tobytes("F"), packed=False)
    with path.open("ab") as stream:
        stream.truncate(30 << 30)  # sparse: nothing is written
    np.testing.assert_array_equal(voxels(metaimage.read(path)), hu)


@pytest.mark.parametrize("space", ["3D-right-handed", "3D-left-handed", "scanner-xyz", "left-posterior-superior-time"])
def test_spaces_that_name_no_side_of_a_patient(hu, tmp_path, space):
    with pytest.raises(BadInput, match="no_orientation"):
        nrrd.read(write_nrrd(tmp_path / "ct.nrrd", hu.tobytes("F"), space=space))


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("cm", 10), ("m", 1000), ("um", 0.001)])
def test_units_of_an_nrrd(hu, tmp_path, unit, scale):
    plain = nrrd.read(write_nrrd(tmp_path / "a.nrrd", hu.tobytes("F"))).affine
    more = f'space units: "{unit}" "{unit}" "{unit}"\n'
    got = nrrd.read(write_nrrd(tmp_path / "b.nrrd", hu.tobytes("F"), more=more)).affine
    np.testing.assert_allclose(got[:3], plain[:3] * scale)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('space units: "mm" "mm" "parsec"\n', "bad_spacing"),
        ("old min: 0\n", "unsupported_header"),
        ("line skip: 1\n", "unsupported_header"),
        ("byte skip: -2\n", "bad_header"),
        ("sizes: 8 7 6\n", "bad_header"),
        ("Sizes: 8 7 5\n", "bad_header"),
        ("no field\n", "bad_header"),
        ("endian:big\n", "bad_header"),
        ("data file: LIST\n", "unsupported_header"),
    ],
)
def test_nrrd_headers_that_are_refused(hu, tmp_path, more, code):
    with pytest.raises(BadInput, match=code):
        nrrd.read(write_nrrd(tmp_path / "ct.nrrd", hu.tobytes("F"), more=more))


def test_notes_in_an_nrrd_are_no_fields(hu, tmp_path):
    path = write_nrrd(tmp_path / "ct.nrrd", hu.tobytes("F"), more="sizes:=1 1 1\nspace:=RAS\n# type: double\n")
    np.testing.assert_array_equal(voxels(nrrd.read(path)), hu)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("DimSize = 8 7 5\n", "bad_header"),
        ("dimsize = 8 7 5\n", "bad_header"),
        ("elementspacing = 1 1 1\n", "bad_header"),
        ("DimSize: 8 7 6\n", "bad_header"),
        ("Origin = 0 0 0\n", "bad_header"),
        ("Orientation = 1 0 0 0 1 0 0 0 1\n", "bad_header"),
        ("ElementByteOrderMSB = True\n", "bad_header"),
        ("ElementNumberOfChannels = 3\n", "not_scalar"),
        ("ElementToIntensityFunctionSlope = 2\n", "unsupported_header"),
        ("DistanceUnits = um\n", "bad_spacing"),
        ("HeaderSize = 5\n", "unsupported_header"),
    ],
)
def test_metaimage_headers_that_are_refused(hu, tmp_path, more, code):
    with pytest.raises(BadInput, match=code):
        metaimage.read(meta(tmp_path / "ct.mha", hu.tobytes("F"), packed=False, more=more))


@pytest.mark.parametrize("spacing", ["-2 2 4", "2 0 4", "nan 2 4"])
def test_a_spacing_that_mirrors_is_refused(hu, tmp_path, spacing):
    path = meta(tmp_path / "ct.mha", hu.tobytes("F"), packed=False)
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 2 2 4", f"ElementSpacing = {spacing}".encode()))
    with pytest.raises(BadInput, match=r"bad_spacing|bad_header"):
        metaimage.read(path)


def test_what_does_not_fit_a_worker_is_refused_by_its_size(tmp_path):
    picture = tmp_path / "x.png"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)), str(picture))
    volume = tmp_path / "ct.nrrd"
    text = NRRD.format(coding="raw", more="", space="LPS").replace("8 7 6", "1024 1024 200")
    volume.write_bytes(text.encode())
    for read, path in ((xrays.read_xray, picture), (volumes.read_ct, volume)):
        with pytest.raises(BadInput, match=r"too_large.*config.worker_memory_gb is 0.29"):
            memory.limited(read, 0.29, path)
    with pytest.raises(BadInput, match="truncated"):  # it fits the default, and is read
        volumes.read_ct(volume)
    assert memory.LIMIT.get() == memory.DEFAULT_GB
