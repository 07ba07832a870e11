"""The way back: a perfect mask on the record's grid is the drawn one on the file's own, however the file lies."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel import affines
from scipy import ndimage

from data.readers import geometry, volumes
from tests import dicoms
from unimedi_jax.prediction import own_grid

SHAPE = (60, 50, 40)  # x, y, z toward Left, Posterior, Superior
SPACING = np.array([2.5, 2.5, 4.0])
LUNG, TISSUE = -800, 40


def body() -> tuple[np.ndarray, np.ndarray]:
    """HU (x, y, z) of an air-filled ball and a box in tissue, and their classes 1 and 2; neither has a symmetry."""
    at = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) * SPACING
    classes = np.zeros(SHAPE, np.int16)
    classes[np.linalg.norm(at - [50, 45, 60], axis=-1) < 32] = 1
    classes[40:52, 28:44, 22:34] = 2
    return np.where(classes > 0, LUNG, TISSUE).astype(np.int16), classes


def logits(classes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A perfect network's answer on the record's grid: the share of each cell that each class fills."""
    scan = geometry.straighten(geometry.reorient(geometry.Scan(classes, affine)), order=0, outside=0)
    voxels, spacing = volumes.to_zyx(scan)
    weights, _ = geometry.canonical_weights(voxels.shape, spacing)
    shares = [geometry.resample((voxels == number).astype(np.float32), weights) for number in (0, 1, 2)]
    return np.stack(shares, axis=-1)


def dice(a: np.ndarray, b: np.ndarray, number: int) -> float:
    a, b = a == number, b == number
    return 2 * (a & b).sum() / (a.sum() + b.sum())


TURNS = {
    "straight": np.diag([1.0, 1, 1]),
    "mirrored": np.diag([-1.0, 1, -1]),
    "turned": np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]),
    "tilted": affines.from_matvec(np.eye(3))[:3, :3]
    @ np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_nifti_gets_its_mask_voxel_for_voxel(tmp_path, turn):
    hu, classes = body()
    lps = affines.from_matvec(TURNS[turn] @ np.diag(SPACING), [-70, 20, 300])
    ras = np.diag([-1.0, -1, 1, 1]) @ lps
    path = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, ras), path)
    image = own_grid.ct_mask(logits(classes, lps), path)
    own = nibabel.load(path)
    assert image.shape == own.shape
    np.testing.assert_array_equal(image.affine, own.affine)
    mask = np.asarray(image.dataobj)
    assert mask.dtype == np.uint8
    assert dice(mask, classes, 1) > 0.97
    assert dice(mask, classes, 2) > 0.97


def test_other_formats_get_their_mask_in_the_same_place(tmp_path):
    hu, classes = body()
    image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0))
    image.SetSpacing(SPACING.tolist())
    image.SetOrigin([5.0, -60.0, 12.5])
    SimpleITK.WriteImage(image, str(tmp_path / "ct.nrrd"))
    positions = [[5.0, -60.0, 12.5 + SPACING[2] * n] for n in range(SHAPE[2])]
    groups = {
        "PixelMeasuresSequence": {"PixelSpacing": [SPACING[1], SPACING[0]]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
    }
    dicom = dicoms.enhanced(np.ascontiguousarray(hu.transpose(2, 1, 0)), positions, shared=groups)
    dicom.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    lps = affines.from_matvec(np.diag(SPACING), [5.0, -60.0, 12.5])
    answer = logits(classes, lps)
    for name in ("ct.nrrd", "ct.dcm"):
        mask = own_grid.ct_mask(answer, tmp_path / name)
        np.testing.assert_allclose(mask.affine, np.diag([-1.0, -1, 1, 1]) @ lps, atol=1e-6)
        assert min(dice(np.asarray(mask.dataobj), classes, number) for number in (1, 2)) > 0.97


def test_large_organs_come_back_to_99_per_cent(tmp_path):
    """At 1.5 x 1.5 x 2.0 mm; the sizes of a lung and of an adrenal gland."""
    shape, spacing = (200, 180, 130), np.array([1.5, 1.5, 2.0])
    at = [n * size for n, size in zip(np.ogrid[tuple(map(slice, shape))], spacing, strict=True)]
    classes = np.zeros(shape, np.int16)
    for number, centre, radii in ((1, (90, 130, 130), (60, 80, 110)), (2, (230, 130, 60), (16, 9, 14))):
        classes[sum(((x - c) / r) ** 2 for x, c, r in zip(at, centre, radii, strict=True)) < 1] = number
    path, ras = tmp_path / "ct.nii", np.diag([*(-spacing[:2]), spacing[2], 1])
    nibabel.save(nibabel.Nifti1Image(np.where(classes, LUNG, TISSUE).astype(np.int16), ras), path)
    mask = np.asarray(own_grid.ct_mask(logits(classes, np.diag([*spacing, 1])), path).dataobj)
    assert dice(mask, classes, 1) > 0.99
    assert dice(mask, classes, 2) > 0.9


@pytest.mark.parametrize("shape", [(700, 512), (400, 900), (256, 256), (90, 120)])
def test_an_xray_gets_its_mask_pixel_for_pixel(shape):
    rng = np.random.default_rng(0)
    drawn = ndimage.gaussian_filter(rng.normal(size=shape), max(shape) / 12) > 0
    record = geometry.canonical_xray((drawn * 255).astype(np.uint8)) / np.float32(255)
    for answer in (record[..., None] - 0.5, np.stack([1 - record, record], axis=-1)):
        mask = own_grid.xray_mask(answer, shape)
        assert mask.shape == shape
        assert (mask != drawn).mean() < 0.01


@pytest.mark.parametrize("shape", [(700, 512), (256, 256), (224, 180)])
def test_an_xray_has_a_mask_of_any_number_of_classes(shape):
    wide = np.arange(shape[1]) * 6 // shape[1]  # six stripes, as of a head with five organs
    drawn = np.broadcast_to(wide, shape).astype(np.uint8)
    shares = [geometry.canonical_xray((drawn == number).astype(np.uint8) * 255) for number in range(6)]
    mask = own_grid.xray_mask(np.stack(shares, axis=-1) / np.float32(255), shape)
    assert (mask != drawn).mean() < 0.02


@pytest.mark.parametrize("shape", [(700, 512), (90, 120)])
def test_boxes_go_there_and_back(shape):
    rng = np.random.default_rng(1)
    own = np.sort(rng.random((5, 2, 2)), axis=1) * shape
    record = geometry.xray_points(own.reshape(-1, 2), shape).reshape(-1, 4)
    np.testing.assert_allclose(own_grid.own_boxes(record, shape), own.reshape(-1, 4), atol=1e-6)
    whole = own_grid.own_boxes(np.array([[0.0, 0.0, 256.0, 256.0]]), shape)
    np.testing.assert_allclose(whole, [[0, 0, *shape]], atol=1e-6)  # nothing lies in the padding
