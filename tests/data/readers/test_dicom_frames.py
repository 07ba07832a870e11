import numpy as np
import pydicom
import pytest
import SimpleITK
from nibabel import affines

from data.readers import volumes
from data.readers.files import BadInput
from tests import dicoms

AXIAL = [1, 0, 0, 0, 1, 0]
SAGITTAL = [0, 1, 0, 0, 0, -1]
GAP = 2.5
COUNT = 12
SHARED = {
    "PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.8], "SliceThickness": GAP},
    "PlaneOrientationSequence": {"ImageOrientationPatient": AXIAL},
    "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
    "CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]},
}


@pytest.fixture(scope="module")
def stored():
    """A smooth scan as stored, HU + 1024: (frame, row, column) = (12, 36, 40), without symmetry."""
    noise = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(0, 4000, (COUNT, 36, 40)))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 2.0))
    return np.clip(smooth * 2 + 724, 24, 2500).astype(np.int16)


def places(direction=AXIAL, count=COUNT):
    normal = np.cross(direction[:3], direction[3:])
    return [[float(n) for n in np.array([-16.0, -12.6, 100.0]) + normal * GAP * index] for index in range(count)]


@pytest.fixture
def save(tmp_path):
    """`save(pixels, positions, name="ct.dcm", syntax="", **elements)`: writes an enhanced CT, gives its path."""

    def write(pixels, positions, name="ct.dcm", syntax="", **elements):
        data = dicoms.enhanced(pixels, positions, **{"shared": SHARED, **elements})
        if syntax:
            data.compress(syntax)
        data.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


def voxels(path):
    """HU (slice, row, column) of an axial scan."""
    return volumes.read_ct(path).voxels.transpose(2, 1, 0)


def code_of(path):
    with pytest.raises(BadInput) as caught:
        volumes.read_volume(path)
    return caught.value.code


@pytest.mark.parametrize("direction", [AXIAL, SAGITTAL])
def test_an_enhanced_ct_is_simpleitk_s(save, stored, direction):
    shared = SHARED | {"PlaneOrientationSequence": {"ImageOrientationPatient": direction}}
    path = save(stored, places(direction), shared=shared)
    judge = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    scan = volumes.read_ct(path)
    np.testing.assert_array_equal(scan.voxels.transpose(2, 1, 0), SimpleITK.GetArrayFromImage(judge))
    np.testing.assert_allclose(affines.voxel_sizes(scan.affine), judge.GetSpacing())
    np.testing.assert_allclose(scan.affine[:3, 3], judge.GetOrigin())


@pytest.mark.parametrize("syntax", ["", pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless])
def test_frames_are_sorted_by_their_place(save, stored, syntax):
    order = np.random.default_rng(1).permutation(COUNT)
    path = save(stored[order], [places()[index] for index in order], syntax=syntax)
    np.testing.assert_array_equal(voxels(path), stored - 1024)


def test_a_frame_has_its_own_slope_and_intercept(save, stored):
    slopes = [1 + index % 2 for index in range(COUNT)]
    pixels = np.stack([plane // slope for plane, slope in zip(stored // 2 * 2, slopes, strict=True)])
    own = [
        {"PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": -1024 - index}}
        for index, slope in enumerate(slopes)
    ]
    expected = stored // 2 * 2 - 1024 - np.arange(COUNT)[:, None, None]
    np.testing.assert_array_equal(voxels(save(pixels, places(), own=own)), np.maximum(expected, -1024))


def test_padding_becomes_air(save, stored):
    pixels = stored.copy()
    pixels[:, :5] = -2000
    got = voxels(save(pixels, places(), PixelPaddingValue=-2000))
    assert (got[:, :5] == -1024).all()
    np.testing.assert_array_equal(got[:, 5:], stored[:, 5:] - 1024)


def test_two_parts_of_a_concatenation_are_one_scan(save, stored, tmp_path):
    (tmp_path / "series").mkdir()
    for name, part in (("b", slice(0, 5)), ("a", slice(5, COUNT))):
        save(stored[part], places()[part], name=f"series/{name}.dcm")
    np.testing.assert_array_equal(voxels(tmp_path / "series"), stored - 1024)


def test_localisers_among_the_frames_are_left_out(save, stored):
    scout = {"CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}}
    pixels, positions = np.concatenate([stored[:1], stored]), [[0, 0, 5000], *places()]
    np.testing.assert_array_equal(voxels(save(pixels, positions, own=[scout, *[{}] * COUNT])), stored - 1024)


def own(change):
    return [change(index) for index in range(COUNT)]


def without(name):
    return {group: elements for group, elements in SHARED.items() if group != name}


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"positions": places(count=6) * 2}, "enhanced_unsupported"),
        ({"NumberOfFrames": COUNT - 1}, "enhanced_unsupported"),
        ({"positions": places()[:6] + places(count=18)[12:]}, "uneven_slices"),
        ({"shared": without("PixelMeasuresSequence")}, "bad_spacing"),
        ({"shared": without("PlaneOrientationSequence")}, "no_orientation"),
        ({"own": own(lambda index: {"PlanePositionSequence": {}} if index == 3 else {})}, "no_orientation"),
        (
            {
                "own": own(
                    lambda index: {"PlaneOrientationSequence": {"ImageOrientationPatient": SAGITTAL}} if index else {}
                )
            },
            "mixed_orientation",
        ),
        ({"shared": without("PixelValueTransformationSequence")}, "no_rescale"),
        (
            {"own": own(lambda index: {"PixelValueTransformationSequence": {"RescaleSlope": 1}} if index else {})},
            "no_rescale",
        ),
        (
            {
                "shared": SHARED
                | {
                    "PixelValueTransformationSequence": {
                        "RescaleSlope": 1,
                        "RescaleIntercept": -1024,
                        "RescaleType": "Z_EFF",
                    }
                }
            },
            "not_hu",
        ),
        ({"pixels": np.zeros((COUNT - 1, 36, 40), np.int16)}, "dicom_truncated"),
        ({"Modality": "MR"}, "wrong_modality"),
    ],
)
def test_enhanced_cts_that_are_refused(save, stored, elements, code, tmp_path):
    elements = dict(elements)
    modality, frames = elements.pop("Modality", None), elements.pop("NumberOfFrames", None)
    path = save(elements.pop("pixels", stored), elements.pop("positions", places()), **elements)
    if modality or frames:
        data = pydicom.dcmread(path)
        data.Modality, data.NumberOfFrames = modality or "CT", frames or COUNT
        data.save_as(path)
    assert code_of(path) == code


def test_frames_without_groups_are_refused(tmp_path, stored):
    data = dicoms.dataset(stored, Modality="CT", NumberOfFrames=COUNT)
    data.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    assert code_of(tmp_path / "ct.dcm") == "enhanced_unsupported"


def test_a_compressed_frame_cut_short_is_noticed(save, stored):
    path = save(stored, places(), syntax=pydicom.uid.JPEG2000Lossless)
    data = pydicom.dcmread(path)
    frames = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=COUNT))
    frames[7] = frames[7][: len(frames[7]) // 2]
    data.PixelData = pydicom.encaps.encapsulate(frames)
    data.save_as(path)
    assert code_of(path) == "dicom_truncated"


def test_only_what_is_needed_of_the_groups_is_read(save, stored):
    from data.readers import dicom_tags

    content = {"FrameContentSequence": {"FrameAcquisitionDateTime": "20200101120000", "FrameComments": "Jane Doe"}}
    header = dicom_tags.read(save(stored, places(), own=[content] * COUNT), pixels=False)
    assert len(header.PerFrameFunctionalGroupsSequence) == COUNT
    assert "Doe" not in str(header)
    assert "2020" not in str(header)


def test_a_slice_alone_is_no_ct(tmp_path, stored):
    data = dicoms.dataset(stored[0], Modality="CT")
    data.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    assert code_of(tmp_path / "ct.dcm") == "single_dicom"
