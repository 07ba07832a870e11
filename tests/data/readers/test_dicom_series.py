import numpy as np
import pytest
import SimpleITK
from nibabel import affines

from data.readers import volumes
from data.readers.files import BadInput
from tests import dicoms

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]
GAP = 2.5


@pytest.fixture(scope="module")
def stored():
    """A smooth scan as stored, HU + 1024: (slice, row, column) = (12, 36, 40), without symmetry."""
    noise = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(0, 4000, (12, 36, 40)))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 2.0))
    return np.clip(smooth * 2 + 724, 24, 2500).astype(np.int16)


def elements(index, direction=AXIAL, **changes):
    """What tells slice `index` of a series."""
    normal = np.cross(direction[:3], direction[3:])
    return {
        "SOPInstanceUID": f"1.2.3.{index + 1}",
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": list(direction),
        "ImagePositionPatient": [float(n) for n in np.array([-16.0, -12.6, 100.0]) + normal * GAP * index],
        "InstanceNumber": index + 1,
        "PixelSpacing": [0.7, 0.8],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **changes,
    }


def write(path, pixels, **values):
    dicoms.dataset(pixels, **values).save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path, stored):
    """`series(change, direction=AXIAL)`: a folder; `change(index)` gives a slice's changes, None skips it."""

    def make(change=lambda index: {}, direction=AXIAL, name="series"):
        folder = tmp_path / name
        folder.mkdir()
        # Names and instance numbers say nothing of the place.
        for index, place in enumerate(np.random.default_rng(1).permutation(len(stored))):
            changes = change(int(place))
            if changes is not None:
                pixels = changes.pop("pixels", stored[place])
                write(folder / f"{index}.dcm", pixels, **elements(int(place), direction, **changes))
        return folder

    return make


def code_of(folder):
    with pytest.raises(BadInput) as caught:
        volumes.read_volume(folder)
    return caught.value.code


def voxels(folder):
    """HU (slice, row, column) of an axial series."""
    return volumes.read_ct(folder).voxels.transpose(2, 1, 0)


@pytest.mark.parametrize("direction", [AXIAL, CORONAL])
def test_a_series_is_simpleitk_s(series, direction):
    folder = series(direction=direction)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    judge = SimpleITK.DICOMOrient(SimpleITK.ReadImage(names), "LPS")
    scan = volumes.read_ct(folder)
    np.testing.assert_array_equal(scan.voxels.transpose(2, 1, 0), SimpleITK.GetArrayFromImage(judge))
    np.testing.assert_allclose(affines.voxel_sizes(scan.affine), judge.GetSpacing())
    np.testing.assert_allclose(scan.affine[:3, 3], judge.GetOrigin())


def test_every_slice_has_its_own_slope_and_intercept(series, stored):
    def change(index):
        slope, shift = (2, 100 * index) if index % 2 else (1, 10 * index)
        pixels = ((stored[index] // 2 * 2 - 1024 + 1024 + 2000) // slope).astype(np.int16)
        return {"RescaleSlope": slope, "RescaleIntercept": -3024 + shift, "pixels": pixels - shift // slope}

    np.testing.assert_array_equal(voxels(series(change)), stored // 2 * 2 - 1024)


def test_padding_becomes_air_before_anything_else(series, stored):
    def change(index):
        pixels = stored[index].copy()
        pixels[:5] = -2000
        return {"pixels": pixels, "PixelPaddingValue": -2000}

    got = voxels(series(change))
    assert (got[:, :5] == -1024).all()
    np.testing.assert_array_equal(got[:, 5:], stored[:, 5:] - 1024)


def test_duplicates_localisers_and_side_files_are_left_out(series, stored):
    folder = series()
    expected = voxels(folder)
    write(folder / "again.dcm", stored[3], **elements(3, SOPInstanceUID="1.2.3.77", InstanceNumber=99))
    for number in range(5):
        scout = elements(number, SOPInstanceUID=f"1.2.3.5{number}", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        write(folder / f"scout{number}.dcm", stored[0], **scout)
    report = elements(0, SOPInstanceUID="1.2.3.78", SeriesInstanceUID="1.2.9", Modality="SR")
    write(folder / "dose.dcm", stored[0], **report)
    (folder / "notes.txt").write_text("nothing")
    np.testing.assert_array_equal(voxels(folder), expected)


def test_a_tilted_gantry_is_straightened(series):
    """Slices shifted against each other by their tilt: 15 degrees about x."""
    tilt = np.tan(np.radians(15)) * GAP

    def change(index):
        return {"ImagePositionPatient": [-16.0, -12.6 + tilt * index, 100.0 + GAP * index]}

    scan = volumes.read_ct(series(change))
    directions = scan.affine[:3, :3]
    np.testing.assert_allclose(directions, np.diag(np.diag(directions)), atol=1e-9)
    assert scan.voxels.shape[1] > 36 + 11 * tilt / 0.7 - 2


@pytest.mark.parametrize("missing", ["RescaleSlope", "RescaleIntercept"])
def test_no_rescale(series, missing):
    assert code_of(series(lambda index: {missing: None} if index == 5 else {})) == "no_rescale"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda i: None if i == 6 else {}, "uneven_slices"),
        (lambda i: {"Modality": "MR"}, "wrong_modality"),
        (lambda i: {"NumberOfFrames": 1 + (i == 3)}, "enhanced_unsupported"),
        (lambda i: {"SeriesInstanceUID": f"1.2.{3 + i % 2}"}, "mixed_series"),
        (lambda i: {"PixelSpacing": [0.7, 0.8 + 0.1 * (i == 2)]}, "bad_spacing"),
        (lambda i: {"PixelSpacing": None}, "bad_spacing"),
        (lambda i: {"ImagePositionPatient": None}, "no_orientation"),
        (lambda i: {"ImageOrientationPatient": None}, "no_orientation"),
        (lambda i: {"ImageOrientationPatient": CORONAL} if i == 4 else {}, "mixed_orientation"),
        (lambda i: {"pixels": np.zeros((36, 41), np.int16)} if i == 4 else {}, "mixed_size"),
        (lambda i: {} if i < 3 else None, "too_few_slices"),
        (lambda i: {"ImagePositionPatient": [0, 0, 0]}, "slices_at_one_place"),
        (lambda i: {"RescaleIntercept": 0}, "not_hu"),
    ],
)
def test_series_that_are_refused(series, change, code):
    assert code_of(series(change)) == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
        (b"junk" * 100, "not_dicom"),
    ],
)
def test_a_file_of_the_series_that_is_none(series, content, code):
    folder = series()
    (folder / "zz.dcm").write_bytes(content)
    assert code_of(folder) == code


def test_a_slice_cut_short(series):
    folder = series()
    path = folder / "4.dcm"
    path.write_bytes(path.read_bytes()[:-500])
    assert code_of(folder) == "dicom_truncated"


def test_slices_may_be_links(series, tmp_path):
    """Where they may lead to is the manifest's matter."""
    folder = series()
    plain = voxels(folder)
    (folder / "4.dcm").rename(tmp_path / "4.dcm")
    (folder / "4.dcm").symlink_to(tmp_path / "4.dcm")
    np.testing.assert_array_equal(voxels(folder), plain)


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "desktop.ini", "DICOMDIR", "dicomdir", "VERSION", "LOCKFILE", "AUTORUN.INF", ".DS_Store"]
)
def test_what_systems_and_viewers_put_beside_slices(series, name):
    folder = series()
    plain = voxels(folder)
    (folder / name).write_bytes(b"no slice")
    np.testing.assert_array_equal(voxels(folder), plain)


def test_an_empty_folder(tmp_path):
    assert code_of(tmp_path) == "empty_folder"
