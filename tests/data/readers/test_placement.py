"""CTs on any grid: against SimpleITK, MONAI and the plain resampling, with their affines, masks and memory."""

import itertools

import monai.transforms
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nibabel import affines, orientations

from data import record_grid
from data.readers import ct_records, geometry, payload, placement, volumes
from data.readers.files import BadInput
from data.record_grid import RecordGrid
from tests.data import test_memory

SHAPE = (48, 40, 30)  # (x, y, z)
LPS = np.diag([0.8, 0.7, 2.5, 1.0])
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def hu():
    """A smooth scan without symmetry, air at its rim, (x, y, z)."""
    noise = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(0, 4000, SHAPE[::-1]))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 2.0))
    return np.clip(smooth * 2 - 300, -1000, 1500).astype(np.int16).transpose(2, 1, 0)


def save(path, voxels, lps):
    """A NIfTI of voxels whose affine counts toward Left, Posterior, Superior."""
    nibabel.save(nibabel.Nifti1Image(voxels, RAS @ lps), path)
    return path


def itk(voxels, lps):
    """The same for SimpleITK."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    spacing = affines.voxel_sizes(lps)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def resampled(image, fields, method):
    """What SimpleITK makes of an image on the voxels of a record."""
    affine = fields["affine"][:, [2, 1, 0, 3]]  # of the order (x, y, z)
    spacing = affines.voxel_sizes(affine)
    reference = SimpleITK.Image([int(n) for n in fields["volume"].shape[::-1]], SimpleITK.sitkFloat32)
    reference.SetSpacing(spacing.tolist())
    reference.SetOrigin(affine[:3, 3].tolist())
    reference.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, reference, SimpleITK.Transform(), method, -2000.0))


def turned(voxels, lps, order, signs):
    """The same scan in another order and direction of its axes."""
    change = np.stack([order, signs], axis=1).astype(float)
    return (orientations.apply_orientation(voxels, change), lps @ orientations.inv_ornt_aff(change, voxels.shape))


@pytest.mark.parametrize("grid", [RecordGrid(spacing_mm=(1.1, 0.5, 0.5)), RecordGrid(volume=(64, 80, 80))])
def test_growing_is_simpleitks_and_monais_linear_interpolation(tmp_path, hu, grid):
    for order, signs in (((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))):
        voxels, lps = turned(hu, LPS, order, signs)
        fields = ct_records.read(save(tmp_path / "ct.nii", voxels, lps), grid).fields
        judge = resampled(itk(voxels.astype(np.float32), lps), fields, SimpleITK.sitkLinear)
        inside = judge > -1500
        assert inside.mean() > (0.9 if grid.spacing_mm else 0.7)
        np.testing.assert_allclose(fields["volume"][inside], judge[inside], atol=0.51)
        image = monai.data.MetaTensor(torch.tensor(voxels[None].astype(np.float32)), affine=RAS @ lps)
        onto = RAS @ fields["affine"][:, [2, 1, 0, 3]]
        grown = monai.transforms.SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)(
            image, dst_affine=onto, spatial_size=fields["volume"].shape[::-1]
        )
        np.testing.assert_allclose(
            fields["volume"][inside], grown.numpy()[0].transpose(2, 1, 0)[inside], atol=0.51 + 0.05
        )
        assert fields["original_shape"].tolist() == list(voxels.shape)
        np.testing.assert_allclose(fields["original_affine"], lps, atol=1e-5)


@pytest.mark.parametrize("grid", [RecordGrid(spacing_mm=(4.0, 1.9, 1.9)), RecordGrid(volume=(12, 16, 24))])
def test_shrinking_keeps_linear_images_where_the_affine_says(tmp_path, grid):
    """The mean over a voxel of what is linear is its value in the middle, whoever computes it.

    Source voxels are steps: along an axis, one that a cell's border cuts at f adds f (1 - f) / 2 of its step on one
    side and takes as much on the other, at most an eighth of the share of the cell; rounding twice adds 1.
    """
    slope, index = np.array([3.0, -2.0, 5.0]), np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    for order in itertools.permutations(range(3)):
        tilt = affines.from_matvec(LPS[:3, :3], [-20.0, 4.0, -7.0])
        ramp = np.rint(affines.apply_affine(tilt, index) @ slope - 250)
        ramp[0, 0, 0] = -1024  # some air, or these are no Hounsfield units
        voxels, lps = turned(ramp.astype(np.int16), tilt, order, (1, -1, -1))
        fields = ct_records.read(save(tmp_path / "ct.nii", voxels, lps), grid).fields
        shape = fields["volume"].shape
        cells = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        expected = affines.apply_affine(fields["affine"], cells) @ slope - 250
        low, high = ramp[1:].min() + 30, ramp.max() - 30
        inner = tuple(slice(2, n - 2) for n in shape)
        compared = (expected[inner] > low) & (expected[inner] < high)
        assert compared.mean() > 0.5
        steps, source = np.abs(slope * affines.voxel_sizes(tilt)), affines.voxel_sizes(tilt)
        most = 1 + (steps / 8 * source / fields["spacing_mm"][::-1]).sum()
        off = fields["volume"][inner][compared] - expected[inner][compared]
        assert np.abs(off).max() < most
        assert abs(off.mean()) < 0.1 * steps.min(), "a tenth of a voxel"
        np.testing.assert_allclose(affines.voxel_sizes(fields["affine"]), fields["spacing_mm"], rtol=1e-6)


def test_slabs_and_boxes_change_nothing(hu, monkeypatch):
    """Against the resampling and the mask rule of the default grid, which look at all of a scan at once."""
    monkeypatch.setattr(placement, "SLAB", 1)
    scan, spacing = hu.transpose(2, 1, 0), (2.5, 0.7, 0.8)
    mask = np.zeros(scan.shape, np.uint8)
    mask[4:20, 5:30, 6:40], mask[22, 8, 9], mask[2:4, 30:33, 1:40] = 1, 2, 7
    for cells in ((32, 128, 128), (9, 11, 20)):
        placed = placement.place(spacing, RecordGrid(volume=cells), tuple(slice(0, n) for n in scan.shape))
        weights, spacing_mm = geometry.canonical_weights(scan.shape, spacing, cells)
        np.testing.assert_array_equal(placed.spacing_mm, spacing_mm)
        for value in (None, 254):
            expected = geometry.canonical_mask(mask, weights, value)
            np.testing.assert_array_equal(placement.mask_on(mask, placed, value), expected)
        if cells == record_grid.DEFAULT.volume:
            plain, _ = geometry.canonical_volume(scan, spacing)
            np.testing.assert_allclose(placement.volume_on(scan, placed), plain, atol=1)


def ellipsoid(radii):
    """A perfect mask (x, y, z) at 0.76 x 0.76 x 3.0 mm, as PROTOCOLS.md measures; `radii` (x, y, z) in mm."""
    shape, mm = (96, 96, 40), np.array([0.76, 0.76, 3.0])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    off = (index * mm - (np.array(shape) - 1) / 2 * mm - [1.3, -2.1, 0.7]) / radii
    return ((off**2).sum(-1) <= 1).astype(np.uint8), np.diag([*mm, 1.0])


@pytest.mark.parametrize(("radii", "least"), [((26.0, 24.0, 40.0), 0.98), ((1.5, 2.5, 15.0), 0.7)])
def test_a_perfect_mask_comes_back(tmp_path, radii, least):
    mask, lps = ellipsoid(radii)
    scan = np.where(mask, 40, -1000).astype(np.int16)
    paths = save(tmp_path / "ct.nii", scan, lps), save(tmp_path / "mask.nii", mask, lps)
    dice = {}
    for name, grid in (("fine", RecordGrid(spacing_mm=(2.0, 1.5, 1.5))), ("coarse", RecordGrid(volume=(9, 24, 24)))):
        fields = ct_records.read_with_mask(paths[0], ct_records.MaskFile(paths[1], "mask", 1), grid)
        small = fields["mask"]
        affine = fields["affine"][:, [2, 1, 0, 3]]
        record = itk(small.transpose(2, 1, 0).astype(np.float32), affine)
        back = SimpleITK.Resample(record, itk(mask, lps), SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
        own = SimpleITK.GetArrayFromImage(back).transpose(2, 1, 0) >= 0.5
        dice[name] = 2 * (own & (mask > 0)).sum() / (own.sum() + mask.sum())
    assert dice["fine"] > least
    assert dice["fine"] > dice["coarse"]


def test_a_nodule_s_box_lies_where_its_world_coordinates_say(hu):
    scan = geometry.Grid(SHAPE, affines.from_matvec(LPS[:3, :3], [-10.0, 5.0, 100.0]))
    box = (slice(4, 30), slice(3, 40), slice(0, 48))
    placed = placement.place((2.5, 0.7, 0.8), RecordGrid(spacing_mm=(1.0, 1.0, 1.0)), box)
    world = np.array([4.0, 20.0, 131.0])
    index = affines.apply_affine(np.linalg.inv(scan.affine), world)[::-1] + 0.5
    on_record = placed.points(index[None])[0] - 0.5
    np.testing.assert_allclose(affines.apply_affine(placed.affine(scan.affine), on_record), world, atol=1e-4)


def test_sets_without_a_spacing(hu):
    array = hu.transpose(2, 1, 0).astype(np.float32)
    fields = ct_records.of_array(array, None, RecordGrid(volume=(16, 24, 24)))
    assert fields["volume"].shape == (16, 24, 24)
    assert np.isnan(fields["affine"][:3, :3].diagonal()).all()
    assert np.isnan(fields["spacing_mm"]).all()
    with pytest.raises(BadInput, match="the set has no spacing"):
        ct_records.of_array(array, None, RecordGrid(spacing_mm=(2.0, 2.0, 2.0)))
    placed = ct_records.of_array(array, (2.5, 0.7, 0.7), RecordGrid(spacing_mm=(2.5, 0.7, 0.7)))
    np.testing.assert_array_equal(placed["volume"], np.rint(array))
    np.testing.assert_allclose(placed["affine"], placed["original_affine"], atol=1e-5)


def test_a_scan_without_lungs_or_body_is_named(tmp_path):
    scan = np.full(SHAPE, -1000, np.int16)
    scan[20:30, 10:30] = 40
    path = save(tmp_path / "ct.nii", scan, np.diag([6.0, 6.0, 6.0, 1.0]))
    with pytest.raises(BadInput, match="nothing_to_crop: the scan shows no lungs"):
        ct_records.read(path, RecordGrid(crop_to="lungs"))
    cut = ct_records.read(path, RecordGrid(spacing_mm=(6.0, 6.0, 6.0), crop_to="body")).fields
    assert cut["volume"].shape == (30, 24, 14), "10 mm beside"
    assert cut["affine"][0, 3] == 18 * 6.0


MASKED = (
    "(lambda path: ct_records.read_with_mask("
    "path, ct_records.MaskFile(path.with_name(path.name.replace('ct', 'mask')), 'mask', 1), "
    "record_grid.RecordGrid(spacing_mm=(1.0, 0.7, 0.7))))"
)


def test_peak_memory_at_the_scanner_s_own_resolution(tmp_path):
    """A fifth of the 600 slices of a large CT; what is needed grows with the voxels, as the bound does."""
    paths = []
    for size, planes in (("small", 5), ("large", 120)):
        scan = test_memory.scan(planes)
        lps = np.diag([0.7, 0.7, 1.0, 1.0])
        paths.append(save(tmp_path / f"{size}_ct.nii", scan, lps))
        save(tmp_path / f"{size}_mask.nii", (scan > 0).astype(np.uint8), lps)
    code = "from data import record_grid\nfrom data.readers import ct_records\n"
    used = test_memory.peak(MASKED, *paths, more=code)
    voxels = 512 * 512 * 120
    assert 5 * voxels < used < bytes_needed(voxels)
    assert bytes_needed(512 * 512 * 600) < 2 * 2**30 - 300 * 2**20, "a CT of 600 slices fits a worker of 2 GB"


def bytes_needed(voxels):
    """By which a scan with a mask is refused beforehand, for a record as fine as the scan."""
    beside = voxels * (ct_records.RECORD_BYTES + ct_records.MASK_BYTES + volumes.MASK_BYTES)
    return payload.volume_bytes((512, 512, voxels // 512**2)) + beside + placement.SLAB * placement.SLAB_BYTES
