"""UniMiSS's changes of a CT beside batchgenerators' arithmetic, written out slowly, and torch's and SciPy's."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from unimedi_jax.config.recipes import UNCHANGED, StrongConfig
from unimedi_jax.input import unimiss_augmentation as ours

SHAPE = (8, 12, 10)


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(0).normal(size=SHAPE)


class Drawn:
    """A generator that hands out what it is told to."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def uniform(self, low, high):
        return low + (high - low) * self.numbers.pop(0)

    def normal(self, mean, deviation, shape=None):
        return mean + deviation * self.numbers.pop(0)


def test_turns_are_those_of_scipy_s_rotations():
    """Coordinates times R_x R_y R_z, as `rotate_coords_3d` has it: the turn back of each point."""
    angles = np.radians([10.0, -7.0, 14.0])
    places = ours.middle_out(SHAPE)
    back = Rotation.from_euler("XYZ", angles).inv()
    expected = back.apply(places.reshape(3, -1).T).T.reshape(places.shape)
    np.testing.assert_allclose(ours.turned(places, angles), expected, atol=1e-12)


def test_an_elastic_change_is_noise_smoothed_axis_by_axis_with_zeros_outside():
    noise, sigma = np.random.default_rng(1).uniform(-1, 1, (3, *SHAPE)), 1.3
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    slow = noise
    for axis in (1, 2, 3):
        slow = np.apply_along_axis(lambda line: np.convolve(line, kernel)[radius : radius + len(line)], axis, slow)
    np.testing.assert_allclose(ours.bends(noise, 5.0, sigma), 5.0 * slow, atol=1e-12)


def test_reading_turns_by_quarters_and_shows_nothing_outside(volume):
    square = volume[:, :10]
    places = ours.middle_out(square.shape)
    np.testing.assert_allclose(ours.read(square, places), square, atol=1e-9)
    quarter = ours.read(square, ours.turned(places, (np.pi / 2, 0, 0)))
    both = np.rot90(square, 1, (1, 2)), np.rot90(square, -1, (1, 2))
    assert min(np.abs(quarter - one).max() for one in both) < 1e-6
    wider = ours.read(np.ones(SHAPE), 1.25 * ours.middle_out(SHAPE))
    assert wider[0, 0, 0] == 0
    assert wider[4, 6, 5] == pytest.approx(1, abs=1e-6)


def test_the_three_moves_are_one_reading(volume):
    by = StrongConfig(1.0, 1.0, 1.0)
    rng = np.random.default_rng(2)
    moved = ours.moved(volume, by, np.random.default_rng(2))
    assert rng.random() < 1
    alpha, sigma = rng.uniform(0, 900), rng.uniform(9, 13)
    noise = rng.uniform(-1, 1, (3, *SHAPE))
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))
    grid = grid + np.stack([ndimage.gaussian_filter(x, sigma, mode="constant") * alpha for x in noise])
    rng.random()
    angles = rng.uniform(-15, 15, 3)
    back = Rotation.from_euler("XYZ", angles, degrees=True).inv()
    grid = back.apply(grid.reshape(3, -1).T).T.reshape(grid.shape)
    rng.random()
    grid = grid * (rng.uniform(0.85, 1) if rng.random() < 0.5 else rng.uniform(1, 1.25))
    centre = np.array(SHAPE)[:, None, None, None] / 2 - 0.5
    np.testing.assert_allclose(moved, ndimage.map_coordinates(volume, grid + centre, order=3), atol=1e-9)


def test_a_blur_is_torch_s_convolution_with_mirrored_edges(volume):
    sigma = 0.8  # 0.5 + 0.6 * 0.5
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.tensor(np.pad(volume, radius, mode="symmetric"))[None, None]
    for axis in range(3):
        shape = [1] * 5
        shape[2 + axis] = len(kernel)
        padded = torch.nn.functional.conv3d(padded, kernel.reshape(shape))
    np.testing.assert_allclose(ours.blurred(volume, Drawn(0.6)), padded[0, 0].numpy(), atol=1e-12)


def test_a_coarser_grid_takes_nearest_voxels_and_comes_back_by_splines(volume):
    """As skimage's `resize` with mode "edge": voxel i of the new grid lies at (i + 1/2) old / new - 1/2."""
    shape = np.round(np.array(SHAPE) * 0.7).astype(int)  # 0.5 + 0.4 * 0.5
    coarse = torch.nn.functional.interpolate(torch.tensor(volume)[None, None], tuple(shape), mode="nearest-exact")
    coarse = coarse[0, 0].numpy()
    places = [(np.arange(n) + 0.5) * small / n - 0.5 for n, small in zip(SHAPE, shape, strict=True)]
    grid = np.stack(np.meshgrid(*places, indexing="ij"))
    expected = np.clip(ndimage.map_coordinates(coarse, grid, order=3, mode="nearest"), coarse.min(), coarse.max())
    np.testing.assert_allclose(ours.coarsened(volume, Drawn(0.4)), expected, atol=1e-9)


def test_intensities(volume):
    x = torch.tensor(volume)
    centred = (x - x.mean()) * 1.1 + x.mean()
    # 0.5 and more: a factor from 1 to 1.25, of which 0.4.
    theirs = {
        "contrast": (ours.contrasted(volume, Drawn(0.5, 0.4)), torch.clamp(centred, x.min(), x.max())),
        "factor": (ours.brightened(volume, Drawn(0.2)), x * 0.85),
        "shift": (ours.shifted(volume, Drawn(1.5)), x + 0.15),
        "noise": (ours.noisy(volume, Drawn(0.5, 2.0)), x + 0.1),
    }
    for name, (made, expected) in theirs.items():
        np.testing.assert_allclose(made, expected.numpy(), atol=1e-12, err_msg=name)
    below = torch.pow((x - x.min()) / (x.max() - x.min() + 1e-7), 0.85) * (x.max() - x.min()) + x.min()
    below = below - below.mean() + x.mean()
    below = below / (below.std(correction=0) + 1e-8) * x.std(correction=0)
    made = ours.gamma(volume, Drawn(0.4, 0.5))  # below 0.5: from 0.7 to 1, the middle
    np.testing.assert_allclose(made, below.numpy(), atol=1e-9)
    assert (made.mean() / made.std(), made.std()) == pytest.approx(
        (volume.mean() / volume.std(), volume.std()), abs=0.1
    )


def test_changes_are_made_in_the_published_order_and_as_often(monkeypatch):
    """Chances of a sample times those of its channel, in the order of `get_train_transform3D`."""
    assert dataclasses.astuple(StrongConfig()) == (0.2, 0.2, 0.2, 0.1, 0.1, 0.15, 0.075, 0.15, 0.125, 0.15)
    order = []
    for name in ours.STEPS:
        monkeypatch.setitem(ours.STEPS, name, lambda volume, rng, name=name: order.append(name) or volume)
    monkeypatch.setattr(ours, "moved", lambda volume, by, rng: order.append("moved") or volume)
    everything = StrongConfig(*(1.0,) * len(dataclasses.fields(StrongConfig)))
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    same = ours.change(volume, (-1024.0, 325.0), everything, np.random.default_rng(0))
    assert order == ["moved", "noise", "blur", "multiply", "add", "contrast", "coarse", "gamma"]
    np.testing.assert_allclose(same, volume, atol=1e-6)
    order.clear()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        ours.change(volume, (-1024.0, 325.0), StrongConfig(), rng)
    for name in ours.STEPS:
        assert order.count(name) / 2000 == pytest.approx(getattr(StrongConfig(), name), abs=0.03), name
    order.clear()
    ours.change(volume, (-1024.0, 325.0), UNCHANGED, rng)
    assert order == ["moved"]


def test_without_a_move_nothing_is_read_anew(volume):
    assert ours.moved(volume, UNCHANGED, np.random.default_rng(0)) is volume
