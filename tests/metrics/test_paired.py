"""The paired bootstrap over patients and seeds: against scikit-learn, by hand, and where the truth is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unimedi_jax.metrics import paired
from unimedi_jax.metrics.paired import Estimate


def test_a_resample_is_the_same_as_measuring_the_drawn_patients():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(60, 2)), rng.integers(0, 2, (60, 2)).astype(float)
    counts = paired.patients(60, resamples=5, seed=3)
    estimate = paired.auc(scores, labels, counts)
    for draw, count in zip(estimate.draws, counts, strict=True):
        rows = np.repeat(np.arange(60), count)
        expected = np.mean([roc_auc_score(labels[rows, c], scores[rows, c]) for c in range(2)])
        assert draw == pytest.approx(expected)
    assert estimate.value == pytest.approx(roc_auc_score(labels, scores))
    values = np.where(rng.random(60) < 0.3, np.nan, scores[:, 0])
    mean = paired.mean(values, counts)
    assert mean.value == pytest.approx(np.nanmean(values))
    np.testing.assert_allclose(mean.draws, [np.nanmean(np.repeat(values, count)) for count in counts])


def test_a_resample_without_a_finding_is_no_mean_over_the_others():
    scores, labels = np.array([[0.1], [0.2], [0.9]]), np.array([[0.0], [0.0], [1.0]])
    estimate = paired.auc(scores, labels, np.array([[2, 1, 0], [1, 1, 1]]))
    assert np.isnan(estimate.draws[0])
    assert estimate.draws[1] == 1


def test_nothing_measured_is_not_a_number_and_never_significant():
    nothing = paired.mean(np.full(4, np.nan), paired.patients(4, resamples=10, seed=0))
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.interval).all()
    assert nothing.p_value == 1
    assert np.isnan((nothing - 0.3).value)


def test_arithmetic_is_draw_by_draw():
    a, b = Estimate(6.0, np.array([6.0, 8.0])), Estimate(3.0, np.array([2.0, 4.0]))
    assert (a - b).draws.tolist() == [4.0, 4.0]
    assert (a + 1.0).value == 7.0
    assert (a / b).draws.tolist() == [3.0, 2.0]
    assert paired.average([a, b]).value == 4.5
    assert Estimate(1.0, np.array([1.0, -1.0, 2.0])).p_value == 2 / 4


def trial(rng, *, effect, patients=60, seeds=5, spread=0.3, noise=0.1, seed_spread=0.02):
    """Estimates of two models, which differ by `effect`.

    What is drawn: the patients, alike for both models; what each model makes of a patient (`spread`); a training seed
    (`seed_spread`); and what one run makes of one patient (`noise`).
    """
    shared = rng.normal(size=patients)
    counts = paired.patients(patients, resamples=200, seed=1)

    def model(shift):
        of_model = shift + shared + spread * rng.normal(size=patients)
        runs = of_model + noise * rng.normal(size=(seeds, patients)) + seed_spread * rng.normal(size=(seeds, 1))
        return paired.over_seeds([paired.mean(row, counts) for row in runs], seed=2)

    return model(effect), model(0.0)


def test_intervals_of_differences_cover_the_truth():
    """95 % of 300 trials should, and 2.5 % of p-values without an effect be that small: each to 3 standard errors.

    200 resamples, few patients and five seeds add a little: three per cent.
    """
    rng, inside, small = np.random.default_rng(0), 0, 0
    for _ in range(300):
        better, worse = trial(rng, effect=0.2)
        low, high = (better - worse).interval
        inside += low <= 0.2 <= high
        same = trial(rng, effect=0.0)
        small += (same[0] - same[1]).p_value <= 0.025
    assert abs(inside / 300 - 0.95) <= 3 * np.sqrt(0.05 * 0.95 / 300) + 0.03
    assert abs(small / 300 - 0.025) <= 3 * np.sqrt(0.025 * 0.975 / 300) + 0.03


def test_noise_of_single_runs_widens_the_interval_and_never_narrows_it():
    """Patients and seeds are drawn apart: noise of one run on one patient counts up to three times (Owen 2007)."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(60):
        better, worse = trial(rng, effect=0.2, spread=0.0, noise=0.3, seed_spread=0.0)
        low, high = (better - worse).interval
        inside += low <= 0.2 <= high
    assert inside >= 58


def test_what_models_share_cancels_in_their_difference():
    better, worse = trial(np.random.default_rng(1), effect=0.1, spread=0.05, noise=0.02, seed_spread=0.0)
    difference = np.diff((better - worse).interval)
    assert difference < 0.2 * np.diff(better.interval)
    assert (better - worse).p_value < 0.01
    assert (worse - better).p_value > 0.99


def test_seeds_that_disagree_widen_the_interval():
    one, other = (np.full(200, value) for value in (0.5, 0.7))
    both = paired.over_seeds([Estimate(0.5, one), Estimate(0.7, other)], seed=0)
    assert both.value == pytest.approx(0.6)
    assert set(np.round(both.draws, 6)) == {0.5, 0.6, 0.7}
    assert both.interval == pytest.approx((0.5, 0.7))


def test_holm_by_hand():
    """Holm 1979: the smallest times 4, the next times 3, never below one before it, at most 1."""
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([1.0, 0.5, 1.0, 0.02]) == pytest.approx([1.0, 1.0, 1.0, 0.08])


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(paired.holm(list(p)), multitest.multipletests(p, method="holm")[1])
