"""The bootstrap against scipy's, its seed and its empty cases."""

import numpy as np
import pytest
from scipy import stats

from unimedi_jax.metrics import bootstrap


def test_close_to_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=120)
    bounds = bootstrap.mean_interval(values, resamples=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval
    assert bounds == pytest.approx(tuple(theirs), abs=0.02)


def test_seed_decides_everything() -> None:
    values = np.random.default_rng(0).normal(size=30)
    first, again, other = (bootstrap.mean_interval(values, resamples=50, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 1.0]])
def test_fewer_than_two_cases_have_no_interval(values: list[float]) -> None:
    assert np.isnan(bootstrap.mean_interval(np.array(values), resamples=10)).all()


def test_no_resamples_no_interval() -> None:
    assert np.isnan(bootstrap.mean_interval(np.arange(5.0), resamples=0)).all()
