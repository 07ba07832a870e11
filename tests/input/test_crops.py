"""Crops of CTs at their own resolution beside MONAI's transforms, and the way back to a file's voxels beside ITK's."""

import numpy as np
import pytest
import SimpleITK
import torch
from monai import transforms
from monai.transforms.utils import correct_crop_centers, map_binary_to_indices

from tests import tolerances
from unimedi_jax.input import crops, scan_grid

WINDOW = (-175.0, 250.0)


@pytest.fixture(scope="module")
def scan():
    """A body in air with two structures of 60 and 8 voxels."""
    rng = np.random.default_rng(0)
    volume = np.full((20, 30, 28), -1000, np.int16)
    volume[3:18, 4:25, 6:27] = rng.integers(-150, 200, (15, 21, 21))
    mask = np.zeros(volume.shape, np.uint8)
    mask[5:8, 10:14, 10:15], mask[12:14, 20:22, 20:22] = 1, 2
    return volume, mask


def test_window_and_foreground_are_those_of_monai(scan):
    volume, _ = scan
    judge = transforms.ScaleIntensityRange(*WINDOW, 0.0, 1.0, clip=True)
    theirs = judge(volume[None].astype(np.float32)).numpy()
    own = crops.scaled(volume, WINDOW)
    np.testing.assert_allclose(own, theirs[0], atol=tolerances.float32(4))
    cropped = transforms.CropForeground(select_fn=lambda x: x > 0, allow_smaller=True)(torch.tensor(theirs))
    np.testing.assert_allclose(own[crops.foreground(volume, WINDOW[0])], cropped[0].numpy(), atol=tolerances.float32(4))
    air = np.full((4, 5, 6), -1000, np.int16)
    assert air[crops.foreground(air, WINDOW[0])].shape == air.shape


@pytest.mark.parametrize("size", [(8, 8, 8), (5, 7, 9), (20, 30, 28)])
def test_crops_lie_where_monai_moves_their_centres(scan, size):
    volume, mask = scan
    inside, body = mask > 0, volume > WINDOW[0]
    starts = crops.corners(inside, body, size, (400, 0.5), np.random.default_rng(1))
    again = np.random.default_rng(1)  # the same draws, with MONAI's lists of voxels and its rule for borders
    foreground, background = map_binary_to_indices(inside[None], crops.scaled(volume, WINDOW)[None], 0.0)
    positive = again.random(400) < 0.5
    assert 0.4 < positive.mean() < 0.6
    for at, start in zip(positive, starts, strict=True):
        some = (foreground if at else background).ravel()
        centre = np.unravel_index(int(some[again.integers(len(some))]), inside.shape)
        corrected = correct_crop_centers(list(centre), size, inside.shape)
        box = transforms.SpatialCrop(roi_center=corrected, roi_size=size).slices
        assert [part.start for part in box] == start.tolist()


def test_where_there_is_no_structure_crops_are_of_the_body(scan):
    volume, mask = scan
    body = volume > WINDOW[0]
    starts = crops.corners(np.zeros_like(body), body, (1, 1, 1), (50, 1.0), np.random.default_rng(0))
    assert body[tuple(starts.T)].all()
    whole = crops.corners(mask > 0, mask > 0, (1, 1, 1), (50, 0.0), np.random.default_rng(0))
    assert (mask[tuple(whole.T)] > 0).all()
    nothing = np.zeros_like(body)
    assert crops.corners(nothing, nothing, (1, 1, 1), (3, 0.5), np.random.default_rng(0)).shape == (3, 3)


def test_each_change_of_a_crop_is_one_of_monai(scan):
    volume, mask = scan
    crop, part = crops.scaled(volume[:10, :12, :12], WINDOW), mask[:10, :12, :12]
    rng = np.random.default_rng(0)
    flipped, _ = crops.augment(crop, part, crops.Augmentation(flip=1.0), rng)
    np.testing.assert_array_equal(flipped, transforms.Flip((0, 1, 2))(crop[None]).numpy()[0])
    turns = [transforms.Rotate90(k, (1, 2))(crop[None]).numpy()[0] for k in (1, 2, 3)]
    made = [crops.augment(crop, part, crops.Augmentation(rotate=1.0), rng)[0] for _ in range(20)]
    counts = [sum(np.array_equal(one, turn) for one in made) for turn in turns]
    assert sum(counts) == 20
    assert all(counts)
    for chances, judge in (
        (crops.Augmentation(scale=1.0), transforms.RandScaleIntensity(0.1, 1.0)),
        (crops.Augmentation(shift=1.0), transforms.RandShiftIntensity(0.1, prob=1.0)),
    ):
        change = [crops.augment(crop, part, chances, rng)[0] - crop for _ in range(60)]
        theirs = [judge(crop[None]).numpy()[0] - crop for _ in range(60)]
        most = max(np.abs(one).max() for one in change)
        assert 0.08 < most <= 0.1 + 1e-6
        assert most == pytest.approx(max(np.abs(one).max() for one in theirs), abs=0.02)


def test_masks_move_with_their_crops(scan):
    volume, _ = scan
    record = {"volume": volume, "organ_mask": (volume > 100).astype(np.uint8)}
    chances = crops.Augmentation(0.5, 0.5)
    sampler = crops.ToCrops("organs", (8, 8, 8), 6, 0.5, WINDOW, chances)
    sample = sampler(record, np.random.default_rng(0))
    assert sample["crops"].shape == sample["mask"].shape == (6, 8, 8, 8)
    np.testing.assert_array_equal(sample["crops"] > (100 + 175) / 425 + 1e-6, sample["mask"] > 0)
    larger = crops.ToCrops("organs", (32, 32, 32), 2, 0.5, WINDOW)(record, np.random.default_rng(0))
    assert larger["crops"].shape == (2, 32, 32, 32)
    assert larger["crops"][0, 0, 0, 0] == 0, "what a scan lacks is air"


SIDED = ["Right kidney", "left_kidney", "pneumothorax_right", "KIDNEY_LEFT", "LeftLung", "leftLung", "lungRight"]
SIDED += ["kidney-left", "left2", "riñón izquierdo", "Pulmón Derecho", "costillas_izquierdas", "RiñónDerecho"]
UNSIDED = ["liver", "bright spot", "BrightSpot", "leftover", "Leftover", "aorta", "upright", "UprightFilm"]


@pytest.mark.parametrize(("name", "sided"), [*((name, True) for name in SIDED), *((name, False) for name in UNSIDED)])
def test_names_that_say_a_side(name, sided):
    assert crops.name_sides(["liver", name]) == sided


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL"])
def test_logits_come_to_the_voxels_of_the_file_as_itk_brings_them(codes):
    """`decide` rounds here, so that what is compared are the interpolated numbers themselves."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(0, 200, (9, 11, 10, 1)).astype(np.float32)
    record = np.array([[0, 0, 2.5, -12.0], [0, 3.0, 0, 7.0], [4.0, 0, 0, 30.0], [0, 0, 0, 1]])
    straight = np.diag([1.1, 1.2, 1.3, 1.0])
    straight[:3, 3] = -11.0, 8.0, 31.0
    signs = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "I": (2, -1), "S": (2, 1)}
    file, shape = np.eye(4), []
    sizes = (20, 24, 22)
    file[:3, 3] = straight[:3, 3]
    for axis, code in enumerate(codes):
        to, sign = signs[code]
        file[:3, axis] = 0
        file[to, axis] = sign * straight[to, to]
        if sign < 0:
            file[to, 3] += straight[to, to] * (sizes[to] - 1)
        shape.append(sizes[to])
    places = scan_grid.Places(record, tuple(shape), file)
    own = scan_grid.classes(logits, places, lambda plane: np.rint(plane[..., 0]).astype(np.uint8))
    image = SimpleITK.GetImageFromArray(logits[..., 0])
    image.SetSpacing((2.5, 3.0, 4.0))
    image.SetOrigin((-12.0, 7.0, 30.0))
    grid = SimpleITK.Image(shape, SimpleITK.sitkFloat32)
    grid.SetSpacing(places.spacing)
    grid.SetOrigin(file[:3, 3].tolist())
    grid.SetDirection((file[:3, :3] / places.spacing).ravel().tolist())
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, -1.0)
    )
    theirs = theirs.transpose(2, 1, 0)
    reached = theirs >= 0
    assert reached.mean() > 0.5
    apart = np.abs(own[reached] - theirs[reached])
    assert apart.max() <= 0.5 + 1e-3


def test_a_voxel_longer_than_a_cell_takes_the_mean_of_what_it_covers():
    weights = scan_grid.axis_weights(3, 0.5, 2.0, 6)
    np.testing.assert_allclose(weights, np.kron(np.eye(3), [[0.5, 0.5]]), atol=1e-6)
    beyond = scan_grid.axis_weights(4, 0.5, 2.0, 6)[3]
    assert not beyond.any(), "the record ends before it"
    np.testing.assert_allclose(scan_grid.axis_weights(5, -0.4, 0.5, 2).sum(1), [1, 1, 1, 1, 0], atol=1e-6)
