"""Means that merge, against numpy's mean over everything."""

import jax
import numpy as np
import pytest

from unimedi_jax.mean import Mean


def test_merged_means_are_the_mean_of_all() -> None:
    a, b = np.arange(5.0), np.array([10.0])
    assert float((Mean.of(a) + Mean.of(b)).value) == pytest.approx(np.concatenate([a, b]).mean())


def test_a_mask_leaves_out() -> None:
    values = np.array([[1.0, 2.0, np.pi], [4.0, 5.0, 6.0]])
    mask = np.array([[True, True, False]])
    assert float(Mean.of(values, mask).value) == pytest.approx(3.0)
    assert float(Mean.of(values, mask).weight) == 4.0


def test_the_mean_of_nothing_is_nan() -> None:
    assert np.isnan(Mean.of(np.zeros(0)).value)


def test_means_pass_through_jit_and_sum() -> None:
    means = jax.jit(lambda x: [Mean.of(x), Mean.of(2 * x)])(np.arange(4.0))
    assert float(sum(means, start=Mean(0.0, 0.0)).value) == pytest.approx(2.25)
