"""A perfect mask through build, windows and back, measured on the voxels of the file."""

import nibabel
import numpy as np
import pytest

from data.readers import ct_records
from data.record_grid import RecordGrid
from unimedi_jax.evaluation import sliding
from unimedi_jax.evaluation.segmenter import decide
from unimedi_jax.input import scan_grid
from unimedi_jax.metrics import segmentation

SPACING = (3.0, 0.76, 0.76)  # of an abdominal CT, (z, y, x)
SHAPE = (40, 130, 130)
TRAINED_AT = RecordGrid(spacing_mm=(2.0, 1.5, 1.5))


def ellipsoid(middle, axes, shape=SHAPE):
    """Voxels inside an ellipsoid with these whole axes in mm, (z, y, x)."""
    places = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(shape, SPACING, strict=True)), indexing="ij", sparse=True)
    return sum(((place - m) / (a / 2)) ** 2 for place, m, a in zip(places, middle, axes, strict=True)) <= 1


def there_and_back(folder, mask, grid):
    """The record of a CT with this mask (z, y, x), and the mask that perfect windows of it give on the file."""
    affine = np.array([[-0.76, 0, 0, 40.0], [0, 0, -0.76, 30.0], [0, 3.0, 0, -200.0], [0, 0, 0, 1]])
    scan = np.where(mask > 0, 60, -50).astype(np.int16)
    scan[:, :3] = -1000
    paths = [folder / "ct.nii.gz", folder / "mask.nii.gz"]
    for path, voxels in zip(paths, (scan, mask), strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 0, 1), affine), path)  # stored as x, z, y
    fields = ct_records.read_with_mask(paths[0], ct_records.MaskFile(paths[1], "organ_mask"), grid)
    classes, labels = int(mask.max()) + 1, fields["organ_mask"].astype(np.float32)

    def network(windows):
        return np.eye(classes, dtype=np.float32)[windows.astype(int)]

    logits = sliding.predict(labels, np.minimum(labels.shape, 48), network, overlap=0.25)
    places = scan_grid.Places(fields["affine"], tuple(fields["original_shape"]), fields["original_affine"])
    return fields, scan_grid.classes(logits, places, decide), affine


def test_dice_of_a_perfect_mask_at_two_millimetres(tmp_path):
    mask = ellipsoid((60, 50, 47), (100, 84, 76)).astype(np.uint8)  # a large organ
    fields, back, affine = there_and_back(tmp_path, mask, TRAINED_AT)
    original = fields["original_organ_mask"]
    np.testing.assert_array_equal(original, nibabel.load(tmp_path / "mask.nii.gz").get_fdata())
    assert segmentation.dice(original == 1, back == 1) >= 0.99
    image = scan_grid.nifti(back, fields["original_affine"])
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    assert image.shape == nibabel.load(tmp_path / "ct.nii.gz").shape


def test_dice_of_what_is_as_thin_as_an_adrenal_gland(tmp_path):
    """3 x 5 x 30 mm, wherever it lies between the voxels: the mean over eight places."""
    rng, dice = np.random.default_rng(0), []
    for _ in range(8):
        middle = np.array([20.0, 15.0, 23.0]) + rng.uniform(0, SPACING)
        mask = ellipsoid(middle, (3, 5, 30), (14, 40, 60)).astype(np.uint8)
        fields, back, _ = there_and_back(tmp_path, mask, TRAINED_AT)
        dice.append(segmentation.dice(fields["original_organ_mask"] == 1, back == 1))
    assert np.mean(dice) >= 0.93


def test_voxels_of_the_file_s_own_size_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    mask = (rng.random(SHAPE) < 0.3).astype(np.uint8)
    fields, back, _ = there_and_back(tmp_path, mask, RecordGrid(spacing_mm=(0.0, 0.0, 0.0)))
    assert fields["volume"].shape == SHAPE
    np.testing.assert_array_equal(back, fields["original_organ_mask"])


def test_a_default_record_has_no_mask_of_the_file(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:20, 20:40, 20:40] = 1
    affine = np.diag([-0.76, -0.76, 3.0, 1.0])
    for name, voxels in (("ct", mask * 1000.0 - 1000), ("mask", mask)):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0).astype(np.int16), affine), tmp_path / f"{name}.nii")
    files = ct_records.MaskFile(tmp_path / "mask.nii", "lesion_mask", 254)
    assert set(ct_records.read_with_mask(tmp_path / "ct.nii", files, RecordGrid())) == {
        "volume",
        "spacing_mm",
        "lesion_mask",
    }
    fine = ct_records.read_with_mask(tmp_path / "ct.nii", files, TRAINED_AT)
    assert set(np.unique(fine["original_lesion_mask"])) == {0, 254}


@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_masks_of_turned_files_keep_their_order(tmp_path, tilt):
    """A scan whose table was tilted is straightened; the mask that is measured against is the file's own."""
    rng = np.random.default_rng(0)
    voxels = (rng.random((24, 20, 26)) < 0.4).astype(np.uint8)
    angle = np.radians(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, -2.0, -2.0])[:, [2, 0, 1]]
    for name, content in (("ct", voxels * 100.0 - 1000), ("mask", voxels)):
        nibabel.save(nibabel.Nifti1Image(content.astype(np.int16), affine), tmp_path / f"{name}.nii")
    files = ct_records.MaskFile(tmp_path / "mask.nii", "organ_mask")
    fields = ct_records.read_with_mask(tmp_path / "ct.nii", files, RecordGrid(spacing_mm=(2.0, 2.0, 2.0)))
    np.testing.assert_array_equal(fields["original_organ_mask"], voxels)
