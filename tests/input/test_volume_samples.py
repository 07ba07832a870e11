"""Whole CTs at a size of their own: beside torch's resampling, numpy's turns, and chances counted."""

import dataclasses

import numpy as np
import pytest
import torch

from tests import tolerances
from unimedi_jax.config.recipes import UNCHANGED
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


def test_standardised_is_torch_s_mean_and_deviation(volume):
    theirs = torch.tensor(volume)
    theirs = (theirs - theirs.mean()) / (theirs.std() + 1e-5)
    np.testing.assert_allclose(
        volume_samples.standardised(volume), theirs.numpy(), atol=tolerances.float32(volume.size)
    )


def test_changes_happen_as_often_as_asked_and_stay_in_range(volume):
    rng = np.random.default_rng(0)
    flips = [volume_samples.change(volume, Changes(flip=(0.5, 0.0, 0.0)), rng) for _ in range(200)]
    assert 0.4 < np.mean([np.array_equal(one, volume[::-1]) for one in flips]) < 0.6
    half = [volume_samples.change(volume, Changes(flips=0.5, flip=(1.0, 0.0, 0.0)), rng) for _ in range(200)]
    assert 0.4 < np.mean([np.array_equal(one, volume[::-1]) for one in half]) < 0.6
    some = Changes(flip=(0.5,) * 3, intensity=1.0, add=0.1, multiply=0.25)
    many = [volume_samples.change(volume, some, rng) for _ in range(20)]
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
    sampler = volume_samples.ToVolume((4, 8, 8), (-1024.0, 325.0), changes=Changes(flip=(1.0,) * 3))
    one, other = sampler(record)["tokens"], sampler(record, np.random.default_rng(0))["tokens"]
    np.testing.assert_allclose(one[::-1, ::-1, ::-1], other, atol=1e-6)
    pooled = record["volume"].astype(np.float64).reshape(4, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(one, 2 * (pooled + 1024) / 1349 - 1, atol=1e-5)
    alone = dataclasses.replace(sampler, standardise=True)(record)["tokens"]
    assert (alone.mean(), alone.std(ddof=1)) == pytest.approx((0, 1), abs=1e-3)


def test_strong_changes_come_first_and_may_leave_the_window():
    record = {"volume": np.full((4, 8, 8), 300, np.int16), "labels": np.ones(1)}
    strong = dataclasses.replace(UNCHANGED, multiply=1.0)
    sampler = volume_samples.ToVolume((4, 8, 8), (-1024.0, 325.0), changes=Changes(strong=strong))
    made = [sampler(record, np.random.default_rng(seed))["tokens"] for seed in range(8)]
    assert all(np.ptp(one) < 1e-5 for one in made)
    # 300 HU are 0.4355 in UniMiSS's units, times 0.75 to 1.25; 1 is at 325 HU.
    hu = np.array([(one.mean() + 1) / 2 * 1349 - 1024 for one in made])
    factors = (hu - 158.58) / (300 - 158.58)
    assert 0.75 <= factors.min() < 1 < factors.max() <= 1.25
    assert max(one.max() for one in made) > 1
