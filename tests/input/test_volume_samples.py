"""Whole CTs at a size of their own: beside torch's resampling, numpy's turns, and chances counted."""

import numpy as np
import pytest
import torch

from tests import tolerances
from unimedi_jax.input import volume_samples
from unimedi_jax.input.volume_samples import Changes


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(0).random((8, 12, 12)).astype(np.float32)


def test_shrinks_by_means_and_grows_linearly_as_torch_does(volume):
    pooled = torch.nn.functional.adaptive_avg_pool3d(torch.tensor(volume)[None], (4, 6, 3))[0].numpy()
    np.testing.assert_allclose(volume_samples.resized(volume, (4, 6, 3)), pooled, atol=tolerances.float32(16))
    grown = torch.nn.functional.interpolate(torch.tensor(volume)[None, None], (16, 24, 36), mode="trilinear")[0, 0]
    np.testing.assert_allclose(volume_samples.resized(volume, (16, 24, 36)), grown.numpy(), atol=tolerances.float32(16))


def test_a_cut_lies_in_the_middle_or_beside_it(volume):
    hu = (volume * 1000).astype(np.int16)
    np.testing.assert_array_equal(volume_samples.cut(hu, 0.75, (0.0, 0.0)), hu[:, 1:10, 1:10])
    np.testing.assert_array_equal(volume_samples.cut(hu, 0.5, (-0.25, 0.25)), hu[:, :6, 6:])
    np.testing.assert_array_equal(volume_samples.cut(hu, 1.0, (0.1, 0.1)), hu)


def test_turns_are_numpys(volume):
    turned = volume_samples.turn_and_zoom(volume, (0, 0, 90.0), 1.0)
    both = np.rot90(volume, 1, (1, 2)), np.rot90(volume, -1, (1, 2))
    assert min(np.abs(turned - one)[:, 1:-1, 1:-1].max() for one in both) < 1e-5
    assert np.abs(volume_samples.turn_and_zoom(volume, (0, 0, 0), 1.0) - volume).max() < 1e-6
    wider = volume_samples.turn_and_zoom(np.ones_like(volume), (0, 0, 0), 1.25)
    assert wider[0, 0, 0] == 0, "more is shown than there is"


def test_changes_happen_as_often_as_asked_and_stay_in_range(volume):
    rng = np.random.default_rng(0)
    flips = [volume_samples.change(volume, Changes(flip=(0.5, 0.0, 0.0)), rng) for _ in range(200)]
    assert 0.4 < np.mean([np.array_equal(one, volume[::-1]) for one in flips]) < 0.6
    many = [volume_samples.change(volume, Changes((0.5,) * 3, 1.0, 1.0, 1.0, 1.0, 0.1, 0.25), rng) for _ in range(20)]
    assert all(one.dtype == np.float32 and one.min() >= 0 and one.max() <= 1 for one in many)
    shifted = [volume_samples.change(volume / 2 + 0.2, Changes(intensity=1.0, add=0.07), rng) for _ in range(50)]
    apart = [np.abs(one - volume / 2 - 0.2).max() for one in shifted]
    assert 0.05 < max(apart) <= 0.07 + 1e-6
    np.testing.assert_array_equal(volume_samples.change(volume, volume_samples.NOTHING, rng), volume)


def test_the_same_record_without_a_generator_is_the_same_sample():
    record = {
        "volume": np.random.default_rng(0).integers(-1000, 300, (8, 16, 16)).astype(np.int16),
        "labels": np.ones(1),
    }
    sampler = volume_samples.ToVolume((4, 8, 8), (-1024.0, 325.0), changes=Changes((1.0,) * 3))
    one, other = sampler(record)["tokens"], sampler(record, np.random.default_rng(0))["tokens"]
    np.testing.assert_allclose(one[::-1, ::-1, ::-1], other, atol=1e-6)
    pooled = record["volume"].astype(np.float64).reshape(4, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(one, (pooled + 1024) / 1349, atol=1e-5)
