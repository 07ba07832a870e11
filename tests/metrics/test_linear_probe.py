"""The linear probe against a plain scikit-learn pipeline, its choices and its empty cases."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from unimedi_jax.metrics import linear_probe
from unimedi_jax.metrics.linear_probe import Labelled


def _features(n: int, width: int = 12, seed: int = 0) -> Labelled:
    """Features of very different scales; label 0 follows the first, label 1 is noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.logspace(-3, 3, width) + 5
    y = np.stack([x[:, 0] + rng.normal(size=n) * 5e-4 > 5, rng.random(n) < 0.5], axis=1)
    return Labelled(x, y.astype(float))


def test_equals_a_sklearn_pipeline_at_fixed_regularisation() -> None:
    x, y, _ = _features(300)
    test = _features(200, seed=1)
    auc = linear_probe.auc(Labelled(x[:200], y[:200]), test, Labelled(x[200:], y[200:]), grid=(0.1,))
    scaler = StandardScaler().fit(x[:200])
    model = LogisticRegression(C=0.1, max_iter=1000)
    for label in range(2):
        model.fit(scaler.transform(x[:200]), y[:200, label])  # the validation rows choose C alone
        scores = model.decision_function(scaler.transform(test.x))
        expected = roc_auc_score(test.y[:, label], scores)
        assert auc.per_label[label] == pytest.approx(expected, abs=1e-3)
    assert auc.per_label[0] > 0.9


def test_own_validation_split_is_seeded() -> None:
    first, again = (linear_probe.auc(_features(120), _features(60, seed=1), seed=4) for _ in range(2))
    assert first.per_label.tolist() == again.per_label.tolist()


def test_own_validation_split_is_of_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of them with all of their rows; where each row is a patient, the rows are those of before."""
    x, y, _ = _features(120)
    names = [f"patient {row // 4}" for row in np.random.default_rng(1).permutation(120)]
    trained, standard = [], linear_probe._standard
    monkeypatch.setattr(linear_probe, "_standard", lambda rows: trained.append(rows) or standard(rows))
    by_patient = linear_probe.fit(Labelled(x, y, names), seed=3)
    rows = [x.tolist().index(row) for row in trained[0].tolist()]
    assert len({names[row] for row in rows}) == 24, "of 30"
    assert len(rows) == 96, "none of whom validates too"
    alone, before = (linear_probe.fit(Labelled(x, y, one), seed=3) for one in ([*map(str, range(120))], None))
    order = np.random.default_rng(3).permutation(120)
    np.testing.assert_array_equal(trained[1], x[order[24:]])
    np.testing.assert_array_equal(trained[1], trained[2])
    np.testing.assert_array_equal(alone.weights, before.weights)
    assert not np.array_equal(alone.weights, by_patient.weights)


def test_regularisation_is_chosen_where_it_matters() -> None:
    """60 rows of 200 mostly useless features: C matters, and the worst one is not chosen."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 200)), np.zeros((500, 1))
    y[:, 0] = x[:, :40].sum(axis=1) > 0
    train, val, test = (Labelled(x[rows], y[rows]) for rows in np.split(np.arange(500), [60, 200]))
    alone = [linear_probe.auc(train, test, val, grid=(c,)).macro for c in linear_probe.GRID]
    chosen = linear_probe.auc(train, test, val).macro
    assert max(alone) - min(alone) > 0.005
    assert chosen >= sorted(alone)[1]


def test_unknown_labels_are_skipped() -> None:
    x, y, _ = _features(200)
    holes = y.copy()
    holes[::2, 0] = np.nan
    test = _features(100, seed=1)
    with_holes = linear_probe.auc(Labelled(x, holes), test, Labelled(x, y), grid=(0.1,))
    without = linear_probe.auc(Labelled(x[1::2], y[1::2]), test, Labelled(x, y), grid=(0.1,))
    assert with_holes.per_label[0] == pytest.approx(without.per_label[0], abs=0.02)
    assert np.isfinite(with_holes.per_label).all()


def test_absent_class_and_dead_feature() -> None:
    x, y, _ = _features(50)
    x[:, 3] = 0.1  # constant
    test_x, test_y, _ = _features(50, seed=1)
    test_x[:, 3] = 0.1 + 1e-9
    y[:, 1] = 1
    auc = linear_probe.auc(Labelled(x, y), Labelled(test_x, test_y))
    without = linear_probe.auc(Labelled(np.delete(x, 3, 1), y), Labelled(np.delete(test_x, 3, 1), test_y))
    assert auc.per_label[0] == pytest.approx(without.per_label[0], abs=1e-9)
    assert np.isnan(auc.per_label[1])
    assert auc.macro == auc.per_label[0]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_training_rows(n: int) -> None:
    train = _features(n)
    train.y[:] = 0
    assert np.isnan(linear_probe.auc(train, _features(20, seed=1)).macro)


def test_two_thousand_cases_take_seconds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 128))
    y = (x[:, :5] + rng.normal(size=(2000, 5)) > 0).astype(float)
    start = time.monotonic()
    assert linear_probe.auc(Labelled(x, y), Labelled(x, y)).macro > 0.7
    assert time.monotonic() - start < 30
