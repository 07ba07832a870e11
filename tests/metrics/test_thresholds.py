"""Thresholds against scikit-learn's ROC curve and against every cut tried by hand."""

import numpy as np
import pytest
from sklearn import metrics

from unimedi_jax.metrics import detection, thresholds


@pytest.mark.parametrize("levels", [7, 1000])
def test_youden_is_the_best_point_of_the_roc_curve(levels):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        targets = (rng.random(40) < 0.3).astype(float)
        targets[:2] = 0, 1
        scores = rng.integers(0, levels, 40) / levels + 0.2 * targets
        holes = np.concatenate([targets, [np.nan, np.nan]])
        cut = thresholds.youden(np.concatenate([scores, [5.0, -5.0]]), holes)
        wrong, right, _ = metrics.roc_curve(targets, scores, drop_intermediate=False)
        assert cut.sensitivity + cut.specificity - 1 == pytest.approx((right - wrong).max(), abs=1e-12)
        called = scores >= cut.value
        assert cut.sensitivity == pytest.approx(metrics.recall_score(targets, called), abs=1e-12)
        assert cut.specificity == pytest.approx(metrics.recall_score(1 - targets, ~called), abs=1e-12)
        assert (cut.positives, cut.negatives) == (targets.sum(), (1 - targets).sum())
        assert np.abs(scores - cut.value).min() > 0 or cut.value == scores.min(), "between scores, not on one"


def test_without_both_classes_a_half_remains():
    for targets in ([1.0, 1.0, np.nan], [np.nan] * 3, [0.0, np.nan, 0.0]):
        cut = thresholds.youden(np.array([0.1, 0.2, 0.9]), np.array(targets))
        assert cut.value == 0.5
        assert np.isnan(cut.sensitivity)
    assert thresholds.youden(np.zeros(0), np.zeros(0)).value == 0.5
    assert thresholds.youden(np.full(2, np.nan), np.array([0.0, 1.0])).value == 0.5, "a label that was not fitted"


def test_best_f1_is_the_best_of_all_cuts():
    rng = np.random.default_rng(3)
    cases = []
    for _ in range(12):
        truth = np.sort(rng.random((rng.integers(0, 3), 2, 2)), axis=1).reshape(-1, 4)
        near = np.concatenate(
            [truth + rng.normal(0, 0.05, truth.shape), np.sort(rng.random((2, 2, 2)), axis=1).reshape(-1, 4)]
        )
        cases.append(detection.Case(near, rng.integers(1, 9, len(near)) / 10, truth))

    def f1(cut):
        hits = called = truths = 0
        for case in cases:
            scores, matched = detection.hits(case, (0.5,))
            hits, called = hits + (matched[0] & (scores >= cut)).sum(), called + (scores >= cut).sum()
            truths += len(case.truth)
        return 2 * hits / (called + truths)

    chosen = thresholds.best_f1(cases)
    assert f1(chosen) == max(f1(cut) for cut in np.arange(0.05, 1, 0.1))
    assert f1(chosen) > 0
    assert thresholds.best_f1([detection.Case(np.zeros((0, 4)), np.zeros(0), np.ones((1, 4)))]) == 0.5
    assert thresholds.best_f1([]) == 0.5
