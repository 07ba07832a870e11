"""Tables of levels give what arithmetic on every pixel gives, bit for bit."""

import numpy as np
import pytest

from data.readers import dicom_film, dicom_luts, greys, levels, pictures
from tests import dicoms


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_percentiles_of_counts_are_numpy_s(dtype):
    rng = np.random.default_rng(0)
    for size in [*range(1, 40), 999, 4000]:
        pixels = rng.normal(100, 40, size).clip(0, 250).astype(dtype)
        values, counts = np.unique(pixels, return_counts=True)
        shuffled = rng.permutation(len(values))
        for share in (0.5, 50.0, 99.5):
            assert greys.percentile(values[shuffled], counts[shuffled], share) == np.percentile(pixels, share)
        assert greys.percentiles(values, counts) == greys.percentiles(pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32])
def test_levels_are_numpy_unique_and_give_the_picture_back(dtype, monkeypatch):
    monkeypatch.setattr(greys, "BLOCK", 500)
    facts = np.iinfo(dtype)
    pixels = np.random.default_rng(0).integers(facts.min, facts.max, (40, 31), dtype, endpoint=True)[::-1]
    each = levels.of(pixels)
    unique = dict(zip(*np.unique(pixels, return_counts=True), strict=True))
    assert dict(zip(each.values, each.counts, strict=True)) == unique
    np.testing.assert_array_equal(each.picture(each.values), pixels)


def test_a_png_of_16_bits_is_what_it_was_pixel_by_pixel():
    import cv2

    pixels = np.random.default_rng(0).integers(300, 4000, (64, 50)).astype(np.uint16)
    read = pictures.read(cv2.imencode(".png", pixels)[1].tobytes(), "png", lambda code: None).pixels
    np.testing.assert_array_equal(read, greys.to_8_bits(pixels, *map(float, np.percentile(pixels, (0.5, 99.5)))))


WINDOWS = {
    "none": {},
    "window": {"WindowCenter": 600, "WindowWidth": 900},
    "sigmoid": {"WindowCenter": 600, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
    "beside": {"WindowCenter": 30000, "WindowWidth": 10},
    "a negative slope": {"RescaleSlope": "-0.37", "RescaleIntercept": "7.1"},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 3},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_dicom_film_is_what_it_was_pixel_by_pixel(name, tmp_path):
    """The arithmetic written out for every pixel."""
    stored = np.random.default_rng(1).gamma(4, 150, (60, 44)).astype(np.uint16)
    stored[:5] = 3
    data = dicoms.dataset(stored, Modality="DX", **WINDOWS[name])
    data.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    values = dicom_luts.modality_values(stored, data)
    padding = stored == 3 if "PixelPaddingValue" in data else np.zeros_like(stored, bool)
    expected = greys.to_8_bits(values, *map(float, np.percentile(values[~padding], (0.5, 99.5))))
    if name in ("window", "sigmoid"):
        expected = greys.to_8_bits(*dicom_luts.windowed(values, *dicom_luts.window(data)))
    if name == "inverted":
        expected = 255 - expected
    expected[padding] = 0
    notes = []
    read = dicom_film.read((tmp_path / "film.dcm").read_bytes(), notes.append).pixels
    np.testing.assert_array_equal(read, expected)
    assert ("window_ignored" in notes) == (name == "beside")
