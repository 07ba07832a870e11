"""Slices that are read in place are those that pydicom reads, bit for bit, and float arithmetic gives no other HU."""

import numpy as np
import pydicom
import pytest

from data.readers import dicom_pixels, dicom_planes, dicom_series, dicom_tags, volumes
from data.readers.files import BadInput
from tests import dicoms

SHAPE = (6, 20, 24)  # slice, row, column
KINDS = {
    "signed": {},
    "unsigned": {"PixelRepresentation": 0},
    "12 bits": {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11},
    "12 bits, signed": {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0},
    "padding": {"PixelPaddingValue": -2000, "RescaleIntercept": 0},
    "a slope": {"RescaleSlope": "1.5", "RescaleIntercept": "-1500.25"},
    "no whole intercept": {"RescaleIntercept": "-1024.5"},
    "a large intercept": {"RescaleIntercept": "-16777217"},
    "implicit": {},
}


def stored(kind: str) -> np.ndarray:
    """Values of air and tissue: of `kind` "padding" with a border."""
    values = np.random.default_rng(0).integers(0, 1100, SHAPE)
    if KINDS[kind].get("RescaleIntercept") == 0:
        values -= 1024
    if kind == "padding":
        values[:, :3] = -2000
    return values.astype(np.uint16 if KINDS[kind].get("PixelRepresentation") == 0 else np.int16)


@pytest.fixture
def series(tmp_path):
    def make(kind):
        for index, pixels in enumerate(stored(kind)):
            values = {
                "SOPInstanceUID": f"1.2.{index + 1}",
                "SeriesInstanceUID": "1.2",
                "Modality": "CT",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "ImagePositionPatient": [-3.5, 2.25, 1.1 * index],
                "InstanceNumber": index + 1,
                "PixelSpacing": ["0.700000", "0.7"],
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
            }
            data = dicoms.dataset(pixels, **values | KINDS[kind])
            if kind == "implicit":
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            data.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
        return tmp_path

    return make


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"a large intercept"}))
def test_what_is_read_in_place_is_what_pydicom_reads(series, kind, monkeypatch):
    folder, counted = series(kind), []
    decode = dicom_pixels.decode
    monkeypatch.setattr(dicom_pixels, "decode", lambda *args: counted.append(args) or decode(*args))
    fast = volumes.read_ct(folder)
    assert not counted
    monkeypatch.setattr(dicom_pixels, "plain", lambda *args: None)
    monkeypatch.setattr(dicom_tags, "share", lambda *args: None)
    monkeypatch.setattr(dicom_planes, "EXACT", 0)
    slow = volumes.read_ct(folder)
    assert len(counted) == SHAPE[0]
    np.testing.assert_array_equal(fast.voxels, slow.voxels)
    np.testing.assert_array_equal(fast.affine, slow.affine)


def test_whole_numbers_beyond_floats_are_left_to_floats(series):
    planes = list(dicom_series.read(series("a large intercept")).slabs)
    assert {plane.dtype for plane in planes} == {np.dtype(np.float32)}


@pytest.mark.parametrize("lost", [1, 400, 2000])
def test_a_file_cut_short_since_its_header_was_read(series, lost):
    folder = series("signed")
    volume = dicom_series.read(folder)
    path = folder / "3.dcm"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(BadInput):
        list(volume.slabs)


def test_a_value_that_cannot_be_read_is_not_shared(series):
    folder = series("signed")
    headers = [dicom_tags.read_header(path)[0] for path in sorted(folder.iterdir())]
    known = {}
    for header in headers:
        dicom_tags.share(header, known)
    assert headers[0]["PixelSpacing"] is headers[1]["PixelSpacing"]
    assert headers[0]["ImagePositionPatient"] is not headers[1]["ImagePositionPatient"]
    path = folder / "0.dcm"
    path.write_bytes(path.read_bytes().replace(b"0.700000", b"0.7x0000"))
    broken = dicom_tags.read_header(path)[0]
    dicom_tags.share(broken, known)
    with pytest.raises(BadInput, match="bad_spacing"):
        volumes.read_ct(folder)
