import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data.readers import geometry, xrays
from data.readers.files import BadInput
from tests import dicoms

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"
HEIGHT, WIDTH = 120, 160


@pytest.fixture
def grey():
    """A smooth picture (120, 160) uint8 without symmetry."""
    noise = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH))
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.rint(np.interp(smooth, (smooth.min(), smooth.max()), (3, 250))).astype(np.uint8)


@pytest.fixture
def dicom(tmp_path):
    """`dicom(pixels, **elements)`: writes a film and gives its path."""

    def write(pixels, **elements):
        values = {
            "SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation,
            "Modality": "DX",
            "BitsStored": 12,
            "HighBit": 11,
            **elements,
        }
        data = dicoms.dataset(pixels, **values)
        path = tmp_path / "film.dcm"
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def twelve_bits(grey):
    return grey.astype(np.uint16) * 16


def write(path, pixels):
    assert cv2.imwrite(str(path), pixels)
    return path


def same_picture(a, b):
    """Whether two pictures agree but for rounding."""
    return np.abs(a.astype(int) - b).max() <= 1


def code_of(path):
    with pytest.raises(BadInput) as caught:
        xrays.read_xray(path)
    assert str(caught.value).startswith(caught.value.code + ": ")
    return caught.value.code


def test_eight_bits_are_kept(grey, tmp_path):
    np.testing.assert_array_equal(xrays.read_full_xray(write(tmp_path / "a.png", grey)), grey)
    assert xrays.read_xray(tmp_path / "a.png").shape == (256, 256)


@pytest.mark.parametrize("factor", [16, 257])
def test_deep_pictures_are_scaled_by_percentiles(grey, tmp_path, factor):
    got = xrays.read_full_xray(write(tmp_path / "a.png", grey.astype(np.uint16) * factor))
    low, high = np.percentile(grey, (0.5, 99.5))
    assert same_picture(got, np.clip((grey - low) / (high - low), 0, 1) * 255)


def test_one_bit_png(tmp_path):
    picture = np.zeros((64, 64), bool)
    picture[:20] = True
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(xrays.read_full_xray(tmp_path / "a.png"), picture * np.uint8(255))


def test_equal_channels_are_one(grey, tmp_path):
    np.testing.assert_array_equal(xrays.read_full_xray(write(tmp_path / "a.png", np.stack([grey] * 3, -1))), grey)


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_colours_become_luma(grey, tmp_path, mode):
    colours = np.stack([grey, grey // 2 + 60, np.clip(grey, 20, 200)], -1)
    colours[:9] = (200, 30, 0)  # a mark, as annotations are
    picture = PIL.Image.fromarray(colours)
    picture = picture.quantize() if mode == "P" else picture
    picture.save(tmp_path / "a.png")
    assert same_picture(xrays.read_full_xray(tmp_path / "a.png"), np.array(picture.convert("RGB").convert("L")))


def test_alpha_lies_over_black(grey, tmp_path):
    alpha = np.full_like(grey, 255)
    alpha[:, 80:] = 0
    alpha[:, 60:80] = 128
    rgba = PIL.Image.fromarray(np.stack([grey] * 3 + [alpha], -1))
    rgba.save(tmp_path / "a.png")
    black = PIL.Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    judge = PIL.Image.alpha_composite(black, rgba).convert("L")
    assert same_picture(xrays.read_full_xray(tmp_path / "a.png"), np.array(judge))


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(grey, tmp_path, turn):
    picture = PIL.Image.fromarray(grey)
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    picture.save(tmp_path / "a.jpg", exif=exif, quality=98)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / "a.jpg"))
    assert same_picture(xrays.read_full_xray(tmp_path / "a.jpg"), np.array(upright))


def test_the_content_tells_the_format_not_the_name(grey, tmp_path):
    PIL.Image.fromarray(grey).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(xrays.read_full_xray(tmp_path / "a.jpg"), grey)


def test_monochrome1_is_inverted_after_the_window(dicom, twelve_bits):
    window = dict(WindowCenter=2000, WindowWidth=1500)
    plain = xrays.read_full_xray(dicom(twelve_bits, **window))
    inverted = xrays.read_full_xray(dicom(twelve_bits, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_array_equal(inverted, 255 - plain)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_pydicom_s(dicom, twelve_bits, function):
    path = dicom(twelve_bits, WindowCenter=[1500, 9], WindowWidth=[1800, 9], VOILUTFunction=function)
    data = pydicom.dcmread(path)
    shown = apply_voi_lut(data.pixel_array, data)
    assert same_picture(xrays.read_full_xray(path), shown / 4095 * 255)


def test_a_voi_lut_comes_before_a_window(dicom, twelve_bits):
    table = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(np.uint16)
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 10])
    lut.add_new("LUTData", "US", table.tolist())
    path = dicom(twelve_bits, VOILUTSequence=[lut], WindowCenter=5, WindowWidth=5)
    assert same_picture(xrays.read_full_xray(path), table[twelve_bits] / 1023 * 255)


def test_a_negative_slope_turns_the_picture_over_once(dicom, twelve_bits):
    path = dicom(twelve_bits, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    data = pydicom.dcmread(path)
    assert same_picture(xrays.read_full_xray(path), apply_modality_lut(data.pixel_array, data) / 4095 * 255)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_move_the_percentiles(dicom, twelve_bits, kind):
    signed = (twelve_bits // 2).astype(np.int16)  # 12 bits with a sign end at 2047
    plain = xrays.read_full_xray(dicom(signed, PhotometricInterpretation=kind))
    padded = np.concatenate([np.full((30, WIDTH), -2000, np.int16), signed])
    path = dicom(padded, PhotometricInterpretation=kind, PixelPaddingValue=-2000)
    got = xrays.read_full_xray(path)
    assert (got[:30] == 0).all()
    np.testing.assert_array_equal(got[30:], plain)


def test_a_window_beside_the_film_is_passed_over(dicom, twelve_bits):
    np.testing.assert_array_equal(
        xrays.read_full_xray(dicom(twelve_bits, WindowCenter=30000, WindowWidth=10)),
        xrays.read_full_xray(dicom(twelve_bits)),
    )


def test_a_mask_must_fit_its_film(grey, tmp_path):
    path = write(tmp_path / "mask.png", (grey > 128).astype(np.uint8))
    film = xrays.read_film(write(tmp_path / "film.png", grey))
    np.testing.assert_array_equal(xrays.read_xray_mask(path, film), grey > 128)
    with pytest.raises(BadInput, match="mask_geometry"):
        xrays.read_xray_mask(path, xrays.read_film(write(tmp_path / "film.png", grey[1:])))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_the_film_of_one_whose_zero_is_black(grey, tmp_path, dtype):
    full = np.iinfo(dtype).max if dtype != np.float32 else 255
    pixels = (grey.astype(np.int64) * (full // 255)).astype(dtype)
    films = []
    for name, tag, stored in (("black.tiff", 1, pixels), ("white.tiff", 0, (full - pixels).astype(dtype))):
        # Pillow inverts a grey picture of 8 bits itself when it writes one whose zero is white.
        picture = PIL.Image.fromarray(pixels if dtype == np.uint8 else stored)
        picture.save(tmp_path / name, tiffinfo={262: tag})
        with PIL.Image.open(tmp_path / name) as written:
            assert written.tag_v2[262] == tag
        films.append(xrays.read_full_xray(tmp_path / name))
    assert same_picture(*films)


def disc(sharpness=1):
    """A disc of 255 in (120, 160), its edge smoothed over a pixel where `sharpness` is above 1."""
    rows, columns = np.mgrid[: HEIGHT * sharpness, : WIDTH * sharpness] / sharpness
    inside = np.float32((rows - 50) ** 2 + (columns - 90) ** 2 < 20**2) * 255
    return np.rint(cv2.resize(inside, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)).astype(np.uint8)


@pytest.mark.parametrize("quality", [98, 90, 75])
def test_a_lossy_mask_is_the_mask_that_was_drawn(grey, tmp_path, quality):
    film = xrays.read_film(write(tmp_path / "film.png", grey))
    path = tmp_path / "mask.jpg"
    cv2.imwrite(str(path), disc(), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert 2 < len(np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))) <= xrays.MOST_LABELS
    np.testing.assert_array_equal(xrays.read_xray_mask(path, film), disc() // 255)


def test_a_mask_with_smooth_edges_is_one_object(grey, tmp_path):
    film = xrays.read_film(write(tmp_path / "film.png", grey))
    smooth = disc(4)
    assert 2 < len(np.unique(smooth)) <= xrays.MOST_LABELS
    got = xrays.read_xray_mask(write(tmp_path / "mask.png", smooth), film)
    np.testing.assert_array_equal(got, smooth > 127)


@pytest.mark.parametrize("labels", [(1, 2, 3), (85, 170, 255), (1, 254, 255)])
def test_a_mask_of_labels_stays_as_it_is(grey, tmp_path, labels):
    film = xrays.read_film(write(tmp_path / "film.png", grey))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, label in enumerate(labels):
        mask[20 * number : 20 * number + 10, 30:70] = label
    np.testing.assert_array_equal(xrays.read_xray_mask(write(tmp_path / "mask.png", mask), film), mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_pictures(grey, tmp_path, suffix, share):
    whole = write(tmp_path / f"whole{suffix}", grey).read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(whole[: int(len(whole) * share)])
    assert code_of(tmp_path / f"a{suffix}") in ("truncated", "jpeg_truncated", "not_an_image")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "lfs_pointer"),
        (b"<html>404</html>", "not_an_image"),
    ],
)
def test_what_is_no_picture(tmp_path, content, code):
    (tmp_path / "a.png").write_bytes(content)
    assert code_of(tmp_path / "a.png") == code


def test_files_that_are_none(tmp_path):
    (tmp_path / "dir.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert code_of(tmp_path / "dir.png") == "io_error"
    assert code_of(tmp_path / "none.png") == "missing_file"
    assert code_of(tmp_path / "loop.png") in ("io_error", "missing_file")


def test_pictures_that_show_nothing(tmp_path):
    assert code_of(write(tmp_path / "a.png", np.full((64, 64), 7, np.uint8))) == "constant_image"
    tiny = np.arange(31 * 64, dtype=np.uint8).reshape(31, 64)
    assert code_of(write(tmp_path / "a.png", tiny)) == "too_small"
    PIL.Image.new("CMYK", (64, 64), (9, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert code_of(tmp_path / "a.jpg") == "unsupported_colour"
    PIL.Image.new("L", (64, 64)).save(tmp_path / "a.gif")
    assert code_of(tmp_path / "a.gif") == "unsupported_format"
    bad = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    bad[3, 3] = np.nan
    assert code_of(write(tmp_path / "a.tiff", bad)) == "nonfinite"


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    stream = io.BytesIO()
    PIL.Image.new("1", (30000, 30000)).save(stream, format="PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    assert code_of(tmp_path / "a.png") == "too_large"


def test_dicom_that_is_no_film(dicom, twelve_bits, tmp_path):
    assert code_of(dicom(twelve_bits, Modality="CT")) == "wrong_modality"
    assert code_of(dicom(np.stack([twelve_bits] * 2), NumberOfFrames=2)) == "multi_frame"
    assert code_of(dicom(np.full((64, 64), 9, np.uint16))) == "constant_image"
    assert code_of(dicom(twelve_bits[:20, :20].copy())) == "too_small"
    assert code_of(dicom(twelve_bits, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)) == "constant_image"
    path = dicom(twelve_bits)
    path.write_bytes(path.read_bytes()[:-5000])
    assert code_of(path) == "dicom_truncated"
    path.write_bytes(b"x" * 500)
    assert code_of(path) == "not_dicom"


@pytest.mark.parametrize("damage", ["whole", "tail", "hole"])
def test_damage_that_openjpeg_passes_over(dicom, tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 4096, (128, 128)).astype(np.uint16)
    data = pydicom.dcmread(dicom(noise))
    data.compress(pydicom.uid.JPEG2000Lossless)
    stream = bytearray(next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)))
    size = len(stream)
    if damage == "tail":
        stream[size // 3 :] = bytes(size - size // 3)
    elif damage == "hole":
        stream[size // 3 : size // 2] = bytes(size // 2 - size // 3)
    data.PixelData = pydicom.encaps.encapsulate([bytes(stream)])
    data.save_as(tmp_path / "a.dcm")
    if damage == "whole":
        np.testing.assert_array_equal(xrays.read_full_xray(tmp_path / "a.dcm"), xrays.read_full_xray(dicom(noise)))
    else:
        if damage == "hole":
            assert pydicom.dcmread(tmp_path / "a.dcm").pixel_array.shape == noise.shape
        assert code_of(tmp_path / "a.dcm") == {"hole": "dicom_pixels", "tail": "dicom_truncated"}[damage]


@pytest.mark.skipif(not SHARED.exists(), reason="no real films beside the project (../shared/data)")
def test_a_real_dicom_film_is_bright_where_the_body_is_dense():
    (path,) = (SHARED / "real_cxr" / "dicom_extra").glob("*.dcm")
    assert pydicom.dcmread(path, stop_before_pixels=True).PhotometricInterpretation == "MONOCHROME1"
    film = xrays.read_xray(path)
    used = np.flatnonzero(film.any(0))
    middle = film[100:200, (used[0] + used[-1]) // 2 - 10 : (used[0] + used[-1]) // 2 + 10]
    assert middle.mean() > film[:40].mean() + 30
    assert film.shape == (geometry.XRAY_SIZE,) * 2
