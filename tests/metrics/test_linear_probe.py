"""The linear probe against a plain scikit-learn pipeline, its choices and its empty cases."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from unimedi_jax.metrics import linear_probe


def _features(n: int, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scales; label 0 follows the first, label 1 is noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.logspace(-3, 3, width) + 5
    y = np.stack([x[:, 0] + rng.normal(size=n) * 5e-4 > 5, rng.random(n) < 0.5], axis=1)
    return x, y.astype(float)


def test_equals_a_sklearn_pipeline_at_fixed_regularisation() -> None:
    x, y = _features(300)
    test_x, test_y = _features(200, seed=1)
    found = linear_probe.auc(x[:200], y[:200], test_x, test_y, val_x=x[200:], val_y=y[200:], grid=(0.1,))
    scaler = StandardScaler().fit(x[:200])  # scaled by the training rows, fitted on both
    model = LogisticRegression(C=0.1, max_iter=1000)
    for label in range(2):
        model.fit(scaler.transform(x), y[:, label])
        scores = model.decision_function(scaler.transform(test_x))
        expected = roc_auc_score(test_y[:, label], scores)
        assert found.per_label[label] == pytest.approx(expected, abs=1e-3)
    assert found.per_label[0] > 0.9


def test_own_validation_split_is_seeded() -> None:
    x, y = _features(120)
    first, again = (linear_probe.auc(x, y, *_features(60, seed=1), seed=4) for _ in range(2))
    assert first.per_label.tolist() == again.per_label.tolist()


def test_regularisation_is_chosen_where_it_matters() -> None:
    """60 rows of 200 mostly useless features: C matters, and the worst one is not chosen."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 200)), np.zeros((500, 1))
    y[:, 0] = x[:, :40].sum(axis=1) > 0
    parts = (x[:60], y[:60], x[200:], y[200:])
    alone = [linear_probe.auc(*parts, val_x=x[60:200], val_y=y[60:200], grid=(c,)).macro for c in linear_probe.GRID]
    chosen = linear_probe.auc(*parts, val_x=x[60:200], val_y=y[60:200]).macro
    assert max(alone) - min(alone) > 0.005
    assert chosen >= sorted(alone)[1]


def test_unknown_labels_are_skipped() -> None:
    x, y = _features(200)
    holes = y.copy()
    holes[::2, 0] = np.nan
    test = _features(100, seed=1)
    with_holes = linear_probe.auc(x, holes, *test, val_x=x, val_y=y, grid=(0.1,))
    without = linear_probe.auc(x[1::2], y[1::2], *test, val_x=x, val_y=y, grid=(0.1,))
    assert with_holes.per_label[0] == pytest.approx(without.per_label[0], abs=0.02)
    assert np.isfinite(with_holes.per_label).all()


def test_absent_class_and_dead_feature() -> None:
    x, y = _features(50)
    x[:, 3] = 0.1  # constant
    test_x, test_y = _features(50, seed=1)
    test_x[:, 3] = 0.1 + 1e-9
    y[:, 1] = 1
    found = linear_probe.auc(x, y, test_x, test_y)
    without = linear_probe.auc(np.delete(x, 3, 1), y, np.delete(test_x, 3, 1), test_y)
    assert found.per_label[0] == pytest.approx(without.per_label[0], abs=1e-9)
    assert np.isnan(found.per_label[1])
    assert found.macro == found.per_label[0]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_training_rows(n: int) -> None:
    x, y = _features(n)
    y[:] = 0
    assert np.isnan(linear_probe.auc(x, y, *_features(20, seed=1)).macro)


def test_needs_both_parts_of_the_validation_split() -> None:
    x, y = _features(20)
    with pytest.raises(ValueError, match="both"):
        linear_probe.auc(x, y, x, y, val_x=x)


def test_two_thousand_cases_take_seconds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 128))
    y = (x[:, :5] + rng.normal(size=(2000, 5)) > 0).astype(float)
    start = time.monotonic()
    assert linear_probe.auc(x, y, x, y).macro > 0.7
    assert time.monotonic() - start < 30
