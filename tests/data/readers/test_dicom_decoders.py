"""Decoders of compressed DICOM: the chosen one, against others on pydicom's own files, and what a crash costs."""

import os
import random

import numpy as np
import pydicom
import pytest
from pydicom import encaps, uid
from pydicom.data import get_testdata_file
from pydicom.pixels import get_decoder, pixel_array

from data.build import contracts
from data.readers import dicom_decoders, dicom_pixels
from data.readers.files import BadInput

# A file in pydicom's package, the coding's decoders and how far they may be apart: a lossy one rounds.
FILES = (
    ("SC_rgb_jpeg_dcmtk.dcm", ("gdcm", "pylibjpeg"), 3),
    ("SC_jpeg_no_color_transform.dcm", ("gdcm", "pylibjpeg"), 3),
    ("examples_ybr_color.dcm", ("gdcm", "pylibjpeg"), 3),
    ("SC_rgb_jpeg_gdcm.dcm", ("pylibjpeg",), 0),
    ("MR_small_jpeg_ls_lossless.dcm", ("gdcm", "pylibjpeg"), 0),
    ("JPEGLSNearLossless_08.dcm", ("gdcm", "pylibjpeg"), 0),
    ("JPEGLSNearLossless_16.dcm", ("gdcm", "pylibjpeg"), 0),
    ("JPEG2000.dcm", ("gdcm", "pillow"), 0),
    ("MR_small_jp2klossless.dcm", ("gdcm", "pillow"), 0),
)


def file(name):
    return pydicom.dcmread(get_testdata_file(name, download=False))


@pytest.mark.parametrize(("name", "others", "apart"), FILES)
def test_the_chosen_decoder_agrees_with_the_others(name, others, apart):
    dataset = file(name)
    ours = dicom_pixels.decode(dataset, 0)
    for plugin in others:
        if plugin in get_decoder(dataset.file_meta.TransferSyntaxUID).available_plugins:  # libjpeg is an extra
            theirs = pixel_array(dataset, index=0, decoding_plugin=plugin)
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= apart, plugin


def test_every_coding_has_one_decoder_and_the_contract_names_it():
    read = {uid.RLELossless, *uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes}
    several_components = {uid.JPEG2000MCLossless, uid.JPEG2000MC}  # pydicom has no decoder of these
    assert read - several_components <= dicom_decoders.PLUGIN.keys()
    named = contracts.libraries()
    assert named["decoder of JPEG"] == "pillow"
    assert named["decoder of JPEG Lossless"] == "gdcm"
    assert "pylibjpeg" not in {named["decoder of JPEG"], named["decoder of JPEG Lossless"], named["decoder of JPEG-LS"]}


def test_a_missing_decoder_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(dicom_decoders, "_installed", lambda plugin, syntax: False)
    with pytest.raises(BadInput, match=r"plugin_missing: JPEG Extended.*pip install -r requirements-gpl\.txt"):
        dicom_decoders.check(uid.JPEGExtended12Bit)
    with pytest.raises(BadInput, match=r"plugin_missing: JPEG-LS.*pip install -r requirements\.txt"):
        dicom_decoders.check(uid.JPEGLSLossless)
    with pytest.raises(BadInput, match="plugin_missing: nothing here decodes MPEG2"):
        dicom_decoders.check(uid.MPEG2MPML)
    assert dicom_decoders.plugins()["decoder of JPEG"] == "absent"


def damaged(stream, seed):
    """A stream with one to three other bytes."""
    rng, changed = random.Random(seed), bytearray(stream)
    top = len(changed) - 2 if seed % 2 else min(700, len(changed) - 2)
    for _ in range(rng.choice((1, 2, 3))):
        changed[rng.randrange(2, top)] = rng.choice((rng.randrange(256), 0, 255, 0xC4, 0xDA))
    return bytes(changed)


def test_a_decoder_that_aborts_costs_one_file():
    """GDCM ends its process on the first of these streams; the next file is read as if nothing had happened."""
    dataset = file("SC_rgb_jpeg_gdcm.dcm")
    good = dicom_pixels.decode(dataset)
    stream = encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    codes = set()
    for seed in (201, 936, 3):
        broken = file("SC_rgb_jpeg_gdcm.dcm")
        broken.PixelData = encaps.encapsulate([damaged(stream, seed)])
        with pytest.raises(BadInput) as caught:
            dicom_pixels.decode(broken)
        codes.add(caught.value.code)
    assert codes <= {"reader_crashed", "dicom_pixels", "dicom_truncated"}
    np.testing.assert_array_equal(dicom_pixels.decode(dataset), good)


def test_the_end_of_the_decoder_s_process_is_noticed(monkeypatch):
    dataset = file("SC_rgb_jpeg_gdcm.dcm")
    monkeypatch.setattr(dicom_decoders, "pixel_array", _end)
    with pytest.raises(BadInput, match="reader_crashed"):
        dicom_pixels.decode(dataset)
    monkeypatch.undo()
    assert dicom_pixels.decode(dataset).shape == (100, 100, 3)


def _end(*_, **__):
    os.abort()


def test_one_frame_is_all_that_travels():
    """A process of its own gets the frame, not the series."""
    dataset = file("SC_rgb_jpeg_gdcm.dcm")
    stream = encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.NumberOfFrames = 3
    dataset.PixelData = encaps.encapsulate([b"\xff\xd8other\xff\xd9", stream, b"\xff\xd8third\xff\xd9"])
    one = dicom_decoders._one_frame(dataset, uid.JPEGLosslessSV1, 1)
    assert encaps.get_frame(one.PixelData, 0, number_of_frames=1) == stream
    assert "PatientName" not in one
    assert len(one.PixelData) < len(dataset.PixelData)
