"""AUROC by ranks against scikit-learn, and what happens where there is nothing to measure."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unimedi_jax.metrics import auroc, classification


@pytest.mark.parametrize("levels", [3, 10, 10**9])  # few levels: many ties
@pytest.mark.parametrize("n", [2, 17, 500])
def test_equals_sklearn(n: int, levels: int) -> None:
    rng = np.random.default_rng(n + levels)
    scores = rng.integers(0, levels, n) / levels
    targets = rng.integers(0, 2, n).astype(float)
    targets[:2] = 0, 1
    assert auroc.auroc(scores, targets) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_unknown_labels_are_skipped_for_their_column_only() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(60, 2)), rng.integers(0, 2, (60, 2)).astype(float)
    targets[::3, 0] = np.nan
    auc = auroc.per_label(scores, targets)
    known = ~np.isnan(targets[:, 0])
    expected = [roc_auc_score(targets[known, 0], scores[known, 0]), roc_auc_score(targets[:, 1], scores[:, 1])]
    np.testing.assert_allclose(auc.per_label, expected, atol=1e-12)
    assert auc.macro == pytest.approx(np.mean(expected), abs=1e-12)
    assert auc.positives[0] + auc.negatives[0] == known.sum()


@pytest.mark.parametrize("targets", [[], [1.0], [0.0, 0.0], [np.nan, 1.0]])
def test_absent_class_has_no_auc(targets: list[float]) -> None:
    assert np.isnan(auroc.auroc(np.zeros(len(targets)), np.array(targets)))


def test_absent_class_is_counted_and_not_in_the_macro() -> None:
    targets = np.array([[0, 1], [1, 1], [0, 1.0]])
    auc = auroc.per_label(np.array([[0, 0], [1, 1], [0, 2.0]]), targets, resamples=20)
    assert auc.undefined == 1
    assert auc.macro == 1.0
    scalars = auc.scalars(["nodule", "normal"])
    assert scalars["nodule"] == scalars["macro"] == 1.0
    assert np.isnan(scalars["normal"])
    assert scalars["normal/negatives"] == 0
    assert scalars["undefined"] == 1
    assert "normal/low" not in scalars


def test_no_rows_and_no_labels() -> None:
    assert np.isnan(auroc.per_label(np.zeros((0, 2)), np.zeros((0, 2)), resamples=5).macro)
    assert np.isnan(auroc.per_label(np.zeros((3, 0)), np.zeros((3, 0)), resamples=5).macro)


@pytest.mark.parametrize(("score", "target"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, -1.0)])
def test_refuses_bad_values(score: float, target: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        auroc.auroc(np.array([score, 0.0]), np.array([target, 0.0]))


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Normal scores one unit apart have AUC Phi(1 / sqrt(2)) = .7602; 40 intervals of 95 %."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(40):
        targets = (np.arange(80) % 2).astype(float)[:, None]
        scores = rng.normal(size=(80, 1)) + targets
        auc = auroc.per_label(scores, targets, resamples=200, seed=seed)
        assert auc.low[0] == auc.macro_low <= auc.macro <= auc.macro_high == auc.high[0]
        held += auc.low[0] <= 0.7602 <= auc.high[0]
    assert held >= 34


def test_findings_of_few_cases_are_not_in_the_mean_of_headlines() -> None:
    """Ten positives and ten negatives count; nine do not, however good their AUC looks."""
    rng = np.random.default_rng(0)
    targets = np.zeros((60, 3))
    targets[:10, 0] = targets[:9, 1] = targets[:51, 2] = 1  # the last has nine negatives
    scores = rng.normal(size=(60, 3)) + 3 * targets * [0, 1, 1]
    auc = auroc.per_label(scores, targets, resamples=50)
    assert auc.macro10 == auc.per_label[0] == pytest.approx(roc_auc_score(targets[:, 0], scores[:, 0]))
    assert auc.macro10_low == auc.low[0]
    scalars = auc.scalars(["a", "b", "c"])
    assert (scalars["macro10"], scalars["macro10/findings"]) == (auc.macro10, 1)
    values = classification.measure(1 / (1 + np.exp(-scores)), targets, ["a", "b", "c"], resamples=50)
    assert values["auroc/macro10"] == pytest.approx(auc.macro10)
    assert values["auprc/macro10"] == values["auprc/a"]
    assert values["auroc/macro10/low"] == pytest.approx(auc.macro10_low)
    none = auroc.per_label(scores[:, 1:], targets[:, 1:], resamples=5).scalars(["b", "c"])
    assert np.isnan(none["macro10"])
    assert "macro10/low" not in none
