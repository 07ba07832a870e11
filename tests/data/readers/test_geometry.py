import itertools

import cv2
import numpy as np
import pytest
import SimpleITK
from nibabel import affines

from data.readers import geometry
from data.readers.geometry import Scan


def smooth(shape, seed=0):
    """A volume without symmetry."""
    rng = np.random.default_rng(seed)
    image = SimpleITK.GetImageFromArray(rng.normal(0, 3000, shape))
    return SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(image, 1.5)).astype(np.int16)


@pytest.mark.parametrize(("size", "out_size"), [(512, 128), (300, 32), (32, 32), (7, 32), (129, 128), (128, 129)])
def test_rows_sum_to_one_where_the_source_covers_the_field(size, out_size):
    weights = geometry.axis_weights(size, 0.7, out_size, size * 0.7)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert (weights >= 0).all()


@pytest.mark.parametrize("size", [33, 50, 300, 1500])
def test_shrinking_keeps_the_mean(size):
    values = np.random.default_rng(size).normal(size=size)
    weights = geometry.axis_weights(size, 1.3, 32, size * 1.3)
    assert (weights @ values).mean() == pytest.approx(values.mean(), abs=1e-5)


def test_a_whole_factor_is_the_block_mean():
    volume = smooth((64, 512, 256))
    got, spacing = geometry.canonical_volume(volume, (1.0, 0.5, 1.0))
    blocks = volume.reshape(32, 2, 128, 4, 128, 2).mean((1, 3, 5))
    assert np.abs(got - blocks).max() <= 0.501
    shrunk = SimpleITK.BinShrink(SimpleITK.GetImageFromArray(volume.astype(np.float32)), [2, 4, 2])
    assert np.abs(got - SimpleITK.GetArrayFromImage(shrunk)).max() <= 0.501
    np.testing.assert_allclose(spacing, [2, 2, 2])


@pytest.mark.parametrize("shape", [(200, 300), (129, 511)])
def test_shrinking_in_plane_is_opencv_s_area_mean(shape):
    plane = np.random.default_rng(0).random(shape, np.float32)
    along_y, along_x = (geometry.axis_weights(n, 1.0, 128, float(n)) for n in shape)
    np.testing.assert_allclose(
        along_y @ plane @ along_x.T, cv2.resize(plane, (128, 128), interpolation=cv2.INTER_AREA), atol=1e-5
    )


def test_growing_is_opencv_s_linear():
    plane = np.random.default_rng(0).random((50, 70), np.float32)
    along_y, along_x = (geometry.axis_weights(n, 1.0, 128, float(n)) for n in plane.shape)
    np.testing.assert_allclose(
        along_y @ plane @ along_x.T, cv2.resize(plane, (128, 128), interpolation=cv2.INTER_LINEAR), atol=1e-4
    )


def test_a_wide_scan_is_centred_in_a_square_of_air():
    volume = np.full((32, 64, 128), 100, np.int16)
    got, spacing = geometry.canonical_volume(volume, (2.0, 1.5, 1.5))
    np.testing.assert_allclose(spacing, [2, 1.5, 1.5])
    assert (got[:, 32:96] == 100).all()
    assert (got[:, :32] == geometry.AIR_HU).all()
    assert (got[:, 96:] == geometry.AIR_HU).all()


def test_unequal_spacing_in_plane_becomes_equal():
    volume = np.full((32, 60, 100), 100, np.int16)  # 120 mm by 100 mm
    got, spacing = geometry.canonical_volume(volume, (1.0, 2.0, 1.0))
    assert spacing[1] == spacing[2] == pytest.approx(120 / 128)
    assert (got == 100)[:, :, 64].all()
    covered = (got == 100)[16, 64].sum()
    assert covered * spacing[2] == pytest.approx(100, abs=2)


def test_all_48_axis_orders_are_one_scan():
    voxels = smooth((9, 12, 7))
    affine = affines.from_matvec(np.diag([0.7, 0.8, 2.5]), [-10, 20, 5])
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            turned = voxels.transpose(order)
            axes = affine[:3, :3][:, order]
            origin = affine[:3, 3].copy()
            for axis in np.flatnonzero(flips):
                turned = np.flip(turned, axis)
                origin += axes[:, axis] * (turned.shape[axis] - 1)
                axes = axes * np.where(np.arange(3) == axis, -1, 1)
            scan = geometry.reorient(Scan(turned, affines.from_matvec(axes, origin)))
            np.testing.assert_array_equal(scan.voxels, voxels)
            np.testing.assert_allclose(scan.affine, affine, atol=1e-9)


def ramp(points):
    return points @ np.array([3.0, -2.0, 5.0]) + 40


def tilted(angle, *, shear):
    """A scan of a linear function of the place, turned about x or sheared as a tilted gantry does."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[1, 0, 0], [0, 1, s], [0, 0, c]]) if shear else np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = affines.from_matvec(turn @ np.diag([1.0, 1.0, 2.0]), [-15, -20, 30])
    places = affines.apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, (30, 40, 20)), indexing="ij"), -1))
    return Scan(ramp(places).astype(np.float32), affine)


@pytest.mark.parametrize("shear", [False, True])
def test_a_tilted_scan_is_laid_straight(shear):
    scan = tilted(15, shear=shear)
    straight = geometry.straighten(scan, order=1, outside=-9999)
    assert geometry.tilt_degrees(straight.affine) == 0
    inside = straight.voxels > -9999
    index = np.argwhere(inside)
    expected = ramp(affines.apply_affine(straight.affine, index))
    # Interpolation is exact for a linear function, but beside the rim it mixes with the outside.
    error = np.abs(straight.voxels[inside] - expected)
    assert np.mean(error < 0.01) > 0.85
    assert inside.mean() > 0.5


def test_turned_scan_agrees_with_simpleitk():
    scan = tilted(10, shear=False)
    image = SimpleITK.GetImageFromArray(scan.voxels.transpose(2, 1, 0))
    sizes = affines.voxel_sizes(scan.affine)
    image.SetSpacing(sizes)
    image.SetOrigin(scan.affine[:3, 3])
    image.SetDirection((scan.affine[:3, :3] / sizes).ravel())
    straight = geometry.straighten(scan, order=1, outside=-1024)
    grid = SimpleITK.Image([int(n) for n in straight.voxels.shape], SimpleITK.sitkFloat32)
    grid.SetSpacing(affines.voxel_sizes(straight.affine))
    grid.SetOrigin(straight.affine[:3, 3])
    judge = SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, -1024)
    judge = SimpleITK.GetArrayFromImage(judge).transpose(2, 1, 0)
    both = (judge > -1000) & (straight.voxels > -1000)
    assert both.mean() > 0.5
    assert np.mean(np.abs(judge - straight.voxels)[both] < 0.6) > 0.95


def test_tilt_limits():
    slight = tilted(0.5, shear=False)
    assert geometry.straighten(slight, order=1, outside=0) is slight
    with pytest.raises(geometry.TiltError, match="40 degrees"):
        geometry.straighten(tilted(40, shear=False), order=1, outside=0)


def test_a_mask_keeps_large_objects_by_majority_and_small_ones_at_all():
    mask = np.zeros((320, 512, 512), np.uint8)
    mask[100:200, 100:200, 100:200] = 1
    mask[255:258, 300:303, 400:403] = 2  # a third of a cell's slices
    weights, _ = geometry.canonical_weights(mask.shape, (1.0, 1.0, 1.0))
    small = geometry.canonical_mask(mask, weights, 7)
    expected = np.zeros_like(small)
    expected[10:20, 25:50, 25:50] = 7
    np.testing.assert_array_equal(small[:, :60, :60], expected[:, :60, :60])
    assert small[25, 75, 100] == 7
    assert (small[:, 60:] > 0).sum() <= 4
    assert set(np.unique(small)) == {0, 7}


@pytest.mark.parametrize("shape", [(300, 700), (1024, 640), (100, 80), (256, 256)])
def test_a_film_keeps_its_aspect_in_the_middle(shape):
    got = geometry.canonical_xray(np.full(shape, 200, np.uint8))
    assert got.shape == (256, 256)
    rows, columns = np.flatnonzero(got.any(1)), np.flatnonzero(got.any(0))
    assert max(len(rows), len(columns)) == 256
    assert len(rows) / len(columns) == pytest.approx(shape[0] / shape[1], rel=0.02)
    for used in (rows, columns):
        assert abs(used[0] - (255 - used[-1])) <= 1


def test_a_film_s_mask_lies_on_its_film():
    film = np.zeros((900, 600), np.uint8)
    film[300:420, 90:240] = 255
    picture = geometry.canonical_xray(film)
    mask = geometry.canonical_xray_mask((film > 0).astype(np.uint8), 3)
    assert ((picture > 127) != (mask == 3)).mean() < 0.002
    assert (mask == 3).sum() == pytest.approx(120 * 150 * (256 / 900) ** 2, rel=0.05)
