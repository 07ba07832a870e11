"""Which grey values a DICOM film shows: tables of every coding, windows of another depth, polarity."""

import cv2
import numpy as np
import pydicom
import pytest

from data.readers import xrays
from data.readers.files import BadInput
from tests import dicoms


@pytest.fixture(scope="module")
def twelve_bits():
    """A smooth film (60, 80) of 12 bits."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(60, 80)), (0, 0), 6)
    return cv2.normalize(noise, None, 0, 4095, cv2.NORM_MINMAX).astype(np.uint16)


def shown(path, pixels, **elements):
    """The film of these pixels and its notes."""
    values = {"Modality": "CR", "BitsStored": 12, "HighBit": 11, **elements}
    data = dicoms.dataset(np.ascontiguousarray(pixels), **values)
    data.save_as(path, enforce_file_format=True)
    notes = []
    return xrays.read_full_xray(path, notes.append), notes


def lut(entries, bits, coding, *, first=0, first_vr="US"):
    """A LUT item: entries as a list of words, as words in bytes, or two of 8 bits in a word."""
    entries = np.asarray(entries)
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", first_vr, [len(entries) % 65536, first, bits])
    if coding == "list":
        item.add_new("LUTData", "US", entries.tolist())
    elif coding == "words":
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    else:
        packed = entries.astype(np.uint8).tobytes()
        item.add_new("LUTData", "OW", packed + bytes(len(packed) % 2))
    return [item]


@pytest.mark.parametrize("entry_bits", [8, 10, 12, 16])
@pytest.mark.parametrize("claimed", [8, 10, 12, 14, 16])
def test_a_table_shows_what_its_entries_hold_whatever_it_claims(twelve_bits, tmp_path, entry_bits, claimed):
    entries = np.arange(4096) * ((1 << entry_bits) - 1) // 4095
    expected = np.rint(entries[twelve_bits] / ((1 << entry_bits) - 1) * 255)
    for coding in ("list", "words", "packed") if entry_bits == claimed == 8 else ("list", "words"):
        got, notes = shown(tmp_path / "x.dcm", twelve_bits, VOILUTSequence=lut(entries, claimed, coding))
        assert np.abs(got - expected).max() <= 1
        assert (notes == ["lut_bits_corrected"]) == (entry_bits != claimed)


def test_a_packed_table_of_an_odd_number_of_entries(twelve_bits, tmp_path):
    entries = (np.arange(4095) // 16).astype(np.uint8)
    got, _ = shown(tmp_path / "x.dcm", twelve_bits, VOILUTSequence=lut(entries, 8, "packed"))
    np.testing.assert_array_equal(got, entries[np.minimum(twelve_bits, 4094)])


@pytest.mark.parametrize("coding", ["words", "packed", "list"])
def test_tables_of_big_endian_files(twelve_bits, tmp_path, coding):
    entries = np.arange(4096) // 16
    expected, _ = shown(tmp_path / "a.dcm", twelve_bits, VOILUTSequence=lut(entries, 8, "list"))
    item = lut(entries, 8, coding)
    if coding != "list":
        item[0].LUTData = np.frombuffer(item[0].LUTData, "<u2").astype(">u2").tobytes()
    data = dicoms.dataset(twelve_bits.astype(">u2"), Modality="CR", BitsStored=12, HighBit=11, VOILUTSequence=item)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    data["PixelData"].VR = "OW"
    data.save_as(tmp_path / "b.dcm", enforce_file_format=True, little_endian=False, implicit_vr=False)
    np.testing.assert_array_equal(xrays.read_full_xray(tmp_path / "b.dcm"), expected)


@pytest.mark.parametrize(("first", "vr"), [(-2000, "SS"), (63536, "US")])
def test_the_first_value_of_a_table_with_and_without_its_sign(twelve_bits, tmp_path, first, vr):
    signed = twelve_bits.astype(np.int16) - 2000
    entries = np.arange(4096)
    item = lut(entries, 12, "list", first=first, first_vr=vr)
    got, _ = shown(tmp_path / "x.dcm", signed, BitsStored=16, HighBit=15, VOILUTSequence=item)
    assert np.abs(got - twelve_bits / 4095 * 255).max() <= 1


@pytest.mark.parametrize("coding", ["list", "words", "packed"])
def test_a_modality_table_is_read_as_a_voi_table_is(twelve_bits, tmp_path, coding):
    entries = (255 * np.sqrt(np.arange(4096) / 4095)).astype(np.uint8)
    window = {"WindowCenter": 128, "WindowWidth": 256}
    expected, _ = shown(tmp_path / "a.dcm", entries[twelve_bits].astype(np.uint16), **window)
    item = lut(entries, 8, coding)
    got, _ = shown(tmp_path / "b.dcm", twelve_bits, ModalityLUTSequence=item, **window)
    np.testing.assert_array_equal(got, expected)


def test_tables_that_do_not_fit_their_descriptor_are_refused(twelve_bits, tmp_path):
    short = lut(np.arange(4000), 12, "list")
    short[0].LUTDescriptor = [4096, 0, 12]
    empty = lut(np.arange(4096), 12, "list")
    del empty[0].LUTData
    for item in (short, empty):
        with pytest.raises(BadInput, match="bad_lut"):
            shown(tmp_path / "x.dcm", twelve_bits, VOILUTSequence=item)


@pytest.mark.parametrize(("centre", "width"), [(128, 256), (127, 255), (20000, 40000), (30000, 10), (-500, 100)])
def test_a_window_of_another_depth_is_noted_and_passed_over(twelve_bits, tmp_path, centre, width):
    expected, _ = shown(tmp_path / "a.dcm", twelve_bits)
    got, notes = shown(tmp_path / "b.dcm", twelve_bits, WindowCenter=centre, WindowWidth=width)
    np.testing.assert_array_equal(got, expected)
    assert notes == ["window_ignored"]


@pytest.mark.parametrize(("centre", "width"), [(1023, 2047), (2048, 4096), (3000, 700), (4096, 8192)])
def test_a_window_that_someone_may_have_chosen_is_applied(twelve_bits, tmp_path, centre, width):
    got, notes = shown(tmp_path / "x.dcm", twelve_bits, WindowCenter=centre, WindowWidth=width)
    expected = (twelve_bits - (centre - 0.5)) / (width - 1) + 0.5  # PS3.3 C.11.2.1.2.1
    assert np.abs(got - np.clip(expected, 0, 1) * 255).max() <= 1
    assert notes == []


def test_an_exact_window_may_be_narrower_than_one(twelve_bits, tmp_path):
    rescale = {"RescaleSlope": 1 / 4095, "RescaleIntercept": 0}
    window = {"WindowCenter": 0.5, "WindowWidth": 0.8, "VOILUTFunction": "LINEAR_EXACT"}
    got, notes = shown(tmp_path / "x.dcm", twelve_bits, **rescale, **window)
    assert np.abs(got - np.clip((twelve_bits / 4095 - 0.1) / 0.8, 0, 1) * 255).max() <= 1
    assert notes == []


POLARITIES = [
    ({"PhotometricInterpretation": "MONOCHROME2"}, False, []),
    ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "IDENTITY"}, False, []),
    ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, True, ["shape_inverse"]),
    ({"PhotometricInterpretation": "MONOCHROME1"}, True, []),
    ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True, []),
    ({"PhotometricInterpretation": "MONOCHROME2", "PixelIntensityRelationshipSign": 1}, False, []),
]
for photometric in ("MONOCHROME1", "MONOCHROME2"):
    for sign in (1, -1):
        raw = {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationshipSign": sign}
        raw["PhotometricInterpretation"] = photometric
        POLARITIES.append((raw, sign == 1, ["for_processing"]))


@pytest.mark.parametrize(("elements", "inverted", "noted"), POLARITIES)
def test_what_is_dense_is_bright_by_every_element_of_polarity(twelve_bits, tmp_path, elements, inverted, noted):
    plain, _ = shown(tmp_path / "a.dcm", twelve_bits)
    got, notes = shown(tmp_path / "b.dcm", twelve_bits, **elements)
    np.testing.assert_array_equal(got, 255 - plain if inverted else plain)
    assert notes == noted


def test_colours_are_judged_in_dicom_as_in_pictures(twelve_bits, tmp_path):
    grey = (twelve_bits // 16).astype(np.uint8)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    eight |= {"PhotometricInterpretation": "RGB", "Rows": 60, "Columns": 80}
    got, _ = shown(tmp_path / "x.dcm", np.stack([grey] * 3, -1), **eight)
    np.testing.assert_array_equal(got, grey)
    with pytest.raises(BadInput, match="coloured"):
        shown(tmp_path / "x.dcm", cv2.applyColorMap(grey, cv2.COLORMAP_JET), **eight)
