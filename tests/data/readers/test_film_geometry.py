"""How a film is hung: directions of rows and columns, pixels that are not square, and what lies on the film."""

import itertools

import cv2
import numpy as np
import PIL.Image
import pydicom
import pytest

from data import record_grid
from data.manifest.samples import Sample
from data.readers import film, geometry, xrays
from data.readers.files import BadInput
from data.sets import annotations
from tests import dicoms

HEIGHT, WIDTH = 96, 72
SPOT = (20, 50)  # (y, x) of a bright square of 9 x 9 on the hung film
OPPOSITE = {"L": "R", "R": "L", "H": "F", "F": "H"}


@pytest.fixture(scope="module")
def hung():
    """A film (96, 72) of 12 bits as it is hung: no symmetry, and a bright square."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(HEIGHT, WIDTH)), (0, 0), 6)
    pixels = cv2.normalize(noise, None, 100, 3000, cv2.NORM_MINMAX).astype(np.uint16)
    pixels[SPOT[0] : SPOT[0] + 9, SPOT[1] : SPOT[1] + 9] = 4095
    return pixels


def save(path, pixels, **elements):
    values = {"Modality": "DX", "BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096, **elements}
    dicoms.dataset(np.ascontiguousarray(pixels), **values).save_as(path, enforce_file_format=True)
    return path


def stored_as(pixels, row, column):
    """The hung pixels in a file whose rows and columns run in these directions: pixel by pixel, by their meaning."""
    height, width = pixels.shape
    swapped = row in "HF"
    out = np.zeros((width, height) if swapped else (height, width), pixels.dtype)
    across, down = (column, row) if swapped else (row, column)
    for y, x in np.ndindex(height, width):
        at_x = x if across == "L" else width - 1 - x
        at_y = y if down == "F" else height - 1 - y
        out[(at_x, at_y) if swapped else (at_y, at_x)] = pixels[y, x]
    return out


WAYS = [way for row, column in itertools.product("LR", "HF") for way in ((row, column), (column, row))]


@pytest.mark.parametrize(("row", "column"), WAYS)
def test_a_film_and_what_lies_on_it_hang_as_their_header_says(hung, tmp_path, row, column):
    expected = xrays.read_film(save(tmp_path / "ref.dcm", hung)).pixels
    stored = stored_as(hung, row, column)
    notes = []
    got = xrays.read_film(save(tmp_path / "x.dcm", stored, PatientOrientation=[row, column + "P"]), notes.append)
    np.testing.assert_array_equal(got.pixels, expected)
    assert (notes == ["film_turned"]) == ((row, column) != ("L", "F"))
    mask = (stored == 4095).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    np.testing.assert_array_equal(xrays.read_xray_mask(tmp_path / "mask.png", got), expected == 255)
    y, x = np.nonzero(mask)
    corners = got.points([[y.min(), x.min()], [y.max() + 1, x.max() + 1]])
    np.testing.assert_allclose(np.sort(corners, axis=0), [SPOT, np.array(SPOT) + 9])
    box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
    sample = Sample(tmp_path / "x.dcm", None, "p", "", (), "", annotation=(box,))
    placed = annotations.xray_with_boxes(sample, "xray", lambda code: None, record_grid.DEFAULT)["boxes"][0, 1:]
    scale = geometry.XRAY_SIZE / HEIGHT
    left = (geometry.XRAY_SIZE - round(WIDTH * scale)) // 2
    want = np.array([SPOT[0], SPOT[1], SPOT[0] + 9, SPOT[1] + 9]) * scale + [0, left, 0, left]
    np.testing.assert_allclose(placed, want)


@pytest.mark.parametrize(
    ("way", "upright"), [(["A", "F"], "A"), (["P", "F"], "P"), (["P", "H"], "flip"), (["F", "A"], "swap")]
)
def test_a_lateral_film_keeps_the_side_that_it_is_hung_from(hung, tmp_path, way, upright):
    stored = {"flip": hung[::-1], "swap": hung.T}.get(upright, hung)
    plain = xrays.read_full_xray(save(tmp_path / "ref.dcm", hung))
    turned = xrays.read_full_xray(save(tmp_path / "x.dcm", stored, PatientOrientation=way, ViewPosition="LL"))
    np.testing.assert_array_equal(turned, plain)


@pytest.mark.parametrize("way", [["L", "R"], ["L", "P"], ["H", "F"], "L", ["L", "F", "P"], ["CR", "D"], ["L", ""]])
def test_directions_that_no_film_has_are_refused(hung, tmp_path, way):
    with pytest.raises(BadInput, match="film_orientation"):
        xrays.read_film(save(tmp_path / "x.dcm", hung, PatientOrientation=way))


@pytest.mark.parametrize("way", [None, "", ["", ""]])
def test_no_direction_leaves_the_film_as_it_is_stored(hung, tmp_path, way):
    plain = xrays.read_full_xray(save(tmp_path / "ref.dcm", hung))
    np.testing.assert_array_equal(xrays.read_full_xray(save(tmp_path / "x.dcm", hung, PatientOrientation=way)), plain)


def oblong(pixels, axis):
    """Every second row or column: pixels twice as long along it."""
    return np.ascontiguousarray(pixels[::2] if axis == 0 else pixels[:, ::2])


SIZES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", SIZES)
def test_oblong_pixels_are_made_square_in_dicom(tmp_path, name, axis):
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 4096, (6, 5)).astype(np.uint16), (160, 192))
    ratio = [2, 1] if axis == 0 else [1, 2]
    sizes = ratio if name == "PixelAspectRatio" else [0.15 * part for part in ratio]
    path = save(tmp_path / "x.dcm", oblong(smooth, axis), **{name: sizes})
    got, whole = xrays.read_film(path), xrays.read_full_xray(save(tmp_path / "ref.dcm", smooth, **{name: [1, 1]}))
    assert got.pixels.shape == whole.shape == (192, 160)
    assert np.abs(got.pixels.astype(int) - whole).max() < 12
    np.testing.assert_allclose(got.points([got.stored]), [whole.shape])
    assert got.hang(np.ones(got.stored, np.uint8)).shape == whole.shape


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["x.png", "x.jpg", "x.tiff", "x.bmp"])
def test_oblong_pixels_are_made_square_in_pictures(tmp_path, kind, axis):
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 255, (6, 5)).astype(np.uint8), (160, 192))
    density = (300, 150) if axis == 0 else (150, 300)  # along x and along y
    PIL.Image.fromarray(oblong(smooth, axis)).save(tmp_path / kind, dpi=density)
    got = xrays.read_full_xray(tmp_path / kind)
    assert got.shape == smooth.shape
    assert np.abs(got.astype(int) - smooth).max() < 12


def test_a_turned_picture_of_oblong_pixels(tmp_path):
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 255, (6, 5)).astype(np.uint8), (160, 192))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored on its side: turned clockwise to be upright
    picture = PIL.Image.fromarray(np.rot90(oblong(smooth, 0)))
    picture.save(tmp_path / "x.jpg", dpi=(150, 300), exif=exif, quality=98)
    assert np.abs(xrays.read_full_xray(tmp_path / "x.jpg").astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    "sizes",
    [
        {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.1, 0.1]},
        {"PixelSpacing": [0.2, 0.1], "PixelAspectRatio": [1, 2]},
        {"PixelSpacing": [9.0, 0.1]},
    ],
)
def test_sizes_that_contradict_each_other_are_refused(hung, tmp_path, sizes):
    with pytest.raises(BadInput, match="bad_spacing"):
        xrays.read_film(save(tmp_path / "x.dcm", hung, **sizes))


@pytest.mark.parametrize("sizes", [[0.1, 0.1005], [0, 0], [-1, 1]])
def test_square_or_meaningless_sizes_change_nothing(hung, tmp_path, sizes):
    plain = xrays.read_full_xray(save(tmp_path / "ref.dcm", hung))
    np.testing.assert_array_equal(xrays.read_full_xray(save(tmp_path / "x.dcm", hung, ImagerPixelSpacing=sizes)), plain)


def test_a_mask_of_another_size_is_refused(hung, tmp_path):
    path = save(tmp_path / "x.dcm", hung, PatientOrientation=["F", "L"])
    shown = xrays.read_film(path)
    assert shown.stored == shown.pixels.shape[::-1]
    with pytest.raises(BadInput, match="mask_geometry"):
        shown.hang(np.zeros(shown.pixels.shape, np.uint8))
    assert film.UPRIGHT.apply(hung) is not None
    assert pydicom.dcmread(path).Rows == HEIGHT
