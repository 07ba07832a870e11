"""AUROC, average precision and accuracy against scikit-learn, on random and on degenerate cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from unimedi_jax.evaluation import draws, results
from unimedi_jax.metrics import auroc, bootstrap, classification, logistic


@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 10_000))
def test_equals_scikit_learn_with_ties(n, levels, seed):
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(0, levels, n) / levels, (rng.random(n) < 0.4).astype(float)
    targets[0], targets[1] = 1, 0
    values = classification.measure(scores[:, None], targets[:, None], ["a"])
    assert values["auroc/a"] == pytest.approx(metrics.roc_auc_score(targets, scores), abs=1e-9)
    assert values["auprc/a"] == pytest.approx(metrics.average_precision_score(targets, scores), abs=1e-9)
    assert values["accuracy/a"] == pytest.approx(metrics.accuracy_score(targets, scores >= 0.5), abs=1e-9)


@pytest.mark.parametrize("cells", [1, 10**6])  # resamples one by one, all together
def test_resamples_are_measured_as_scikit_learn_measures_their_rows(monkeypatch, cells):
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 9, 40) / 9, (rng.random(40) < 0.5).astype(float)
    targets[::7] = np.nan
    rows, counts = (f(40, resamples=50, seed=3) for f in (bootstrap.draws, bootstrap.counts))
    kinds = (
        (auroc.resampled, metrics.roc_auc_score, lambda s: s),
        (classification.average_precision, metrics.average_precision_score, lambda s: s),
        (classification.accuracy, metrics.accuracy_score, lambda s: s >= 0.5),
    )
    for ours, theirs, of in kinds:
        known = [row[~np.isnan(targets[row])] for row in rows]
        expected = [theirs(targets[row], of(scores[row])) for row in known]
        (values,) = bootstrap.columns(ours, scores[:, None], targets[:, None], counts).T
        np.testing.assert_allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize("one_of", [False, True])
def test_sensitivity_and_specificity_are_scikit_learns(one_of):
    rng = np.random.default_rng(0)
    probabilities, classes = rng.random((50, 3)), rng.integers(0, 3, 50)
    targets = np.eye(3)[classes]
    values = classification.measure(probabilities, targets, ["a", "b", "c"], one_of=one_of)
    called = probabilities.argmax(axis=1)[:, None] == np.arange(3) if one_of else probabilities >= 0.5
    for column, name in enumerate("abc"):
        truth, answer = targets[:, column] == 1, called[:, column]
        assert values[f"sensitivity/{name}"] == pytest.approx(metrics.recall_score(truth, answer))
        assert values[f"specificity/{name}"] == pytest.approx(metrics.recall_score(~truth, ~answer))
    assert values["sensitivity/macro"] == pytest.approx(np.mean([values[f"sensitivity/{name}"] for name in "abc"]))
    nobody = classification.measure(probabilities[:, :1], np.full((50, 1), np.nan), ["a"])
    assert np.isnan(nobody["sensitivity/a"])


def test_a_resample_without_positives_has_no_result():
    counts = np.array([[2, 0], [0, 2], [1, 1]])
    for ours in (auroc.resampled, classification.average_precision):
        values = ours(np.array([0.1, 0.2]), np.array([0.0, 1.0]), counts)
        assert np.isnan(values[0])
        assert values[2] == 1


def test_absent_classes_and_single_cases():
    nothing = classification.measure(np.array([[0.2], [0.7]]), np.zeros((2, 1)), ["a"], resamples=10)
    assert np.isnan(nothing["auroc/macro"])
    assert np.isnan(nothing["auprc/macro"])
    assert nothing["accuracy/macro"] == 0.5
    assert nothing["undefined"] == 1
    only = classification.measure(np.array([[0.2], [0.7]]), np.ones((2, 1)), ["a"])
    assert only["auprc/a"] == metrics.average_precision_score([1, 1], [0.2, 0.7]) == 1
    one = classification.measure(np.array([[0.7]]), np.ones((1, 1)), ["a"], resamples=10)
    assert (one["accuracy/a"], one["cases"]) == (1, 1)
    empty = classification.measure(np.zeros((0, 1)), np.zeros((0, 1)), ["a"], resamples=10)
    assert np.isnan(empty["accuracy/macro"])


def test_unknown_labels_are_skipped_and_unfitted_columns_left_out():
    targets = np.array([[1, 0], [0, 1], [np.nan, 1], [1, 0.0]])
    values = classification.measure(np.array([[0.9, np.nan]] * 2 + [[0.1, np.nan]] * 2), targets, ["a", "b"])
    assert values["auroc/a"] == metrics.roc_auc_score([1, 0, 1], [0.9, 0.9, 0.1])
    assert values["auroc/macro"] == values["auroc/a"]
    assert (values["positives/a"], values["negatives/a"], values["undefined"]) == (2, 1, 1)


def test_exclusive_classes_are_judged_by_the_most_probable():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 50)
    probabilities = rng.dirichlet(np.ones(3), 50)
    targets = np.eye(3)[truth]
    assert classification.exclusive(targets)
    assert not classification.exclusive(np.array([[1, 1, 0.0]]))
    assert not classification.exclusive(np.array([[1, np.nan]]))
    values = classification.measure(probabilities, targets, list("abc"), one_of=True, resamples=200)
    assert values["accuracy/macro"] == metrics.accuracy_score(truth, probabilities.argmax(1))
    expected = metrics.roc_auc_score(truth, probabilities, multi_class="ovr")
    assert values["auroc/macro"] == pytest.approx(expected, abs=1e-9)
    for kind in ("auroc", "auprc", "accuracy"):
        assert values[f"{kind}/macro/low"] < values[f"{kind}/macro"] < values[f"{kind}/macro/high"]


@pytest.mark.parametrize("one_of", [False, True])
def test_logistic_regression_equals_scikit_learn(one_of):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 8))
    y = np.eye(3)[(x[:, :3] + rng.normal(size=(150, 3))).argmax(1)]
    strengths = np.repeat([[1e-3], [1.0]], 3, axis=1)
    holes = y.copy()
    holes[:20] = np.nan
    weights, bias = logistic.fit(x, holes, strengths, one_of=one_of)
    for row, c in enumerate((1e-3, 1.0)):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=5000)
        values = logistic.probabilities(x, weights[row], bias[row], one_of=one_of)
        if one_of:
            expected = model.fit(x[20:], y[20:].argmax(1)).predict_proba(x)
        else:
            expected = np.stack([model.fit(x[20:], column).predict_proba(x)[:, 1] for column in y[20:].T], axis=1)
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_draws_keep_proportions_and_lie_inside_each_other():
    rng = np.random.default_rng(0)
    labels = (rng.random((1000, 2)) < (0.1, 0.5)).astype(float)
    labels[rng.random(1000) < 0.1, 0] = np.nan
    small, large = (draws.stratified(labels, share, seed=1) for share in (0.1, 0.5))
    assert len(small) == 100
    assert set(small) < set(large)
    assert np.nanmean(labels[small, 0]) == pytest.approx(np.nanmean(labels[:, 0]), abs=0.02)
    assert np.nanmean(labels[small, 1]) == pytest.approx(np.nanmean(labels[:, 1]), abs=0.02)
    assert small.tolist() == draws.stratified(labels, 0.1, seed=1).tolist()
    assert small.tolist() != draws.stratified(labels, 0.1, seed=2).tolist()
    assert draws.stratified(labels, 1.0, seed=1).tolist() == list(range(1000))
    assert len(draws.stratified(labels, 1e-9, seed=1)) == 2
    with pytest.raises(ValueError, match="share"):
        draws.stratified(labels, 0, seed=1)


def test_results_are_averaged_over_seeds_and_written_whole(tmp_path):
    place = dict(task="t", data="d", modality="ct", encoder="trained")
    rows = [
        *results.of({"m": 0.2, "m/low": 0.1, "m/high": 0.3}, share=0.1, seed=0, **place),
        *results.of({"m": 0.4}, share=0.1, seed=1, **place),
        *results.of({"m": float("nan")}, seed=0, **place),
    ]
    mean, nothing = results.average(rows)
    assert mean.value == pytest.approx(0.3)
    assert np.isnan(mean.low)
    assert np.isnan(nothing.value)
    spread, nothing = results.average(rows, spread=True)
    assert (spread.low, spread.high) == (0.2, 0.4)
    assert np.isnan(nothing.low)
    values = results.scalars([spread])
    assert values == {f"trained/t/d/ct/0.1/m{end}": x for end, x in (("", mean.value), ("/low", 0.2), ("/high", 0.4))}
    shown = results.text(rows, ["m"])
    assert "0.300" in shown
    assert shown.splitlines()[-1].endswith("-")
    results.write_csv(tmp_path / "new" / "r.csv", rows)
    lines = (tmp_path / "new" / "r.csv").read_text().splitlines()
    assert lines[1].startswith("t,d,ct,trained,m,0.2,0.1,0,0.1,0.3")
    assert ",,".join(["t,d,ct,trained,m", "1.0"]) in lines[3].replace("m,,", "m,,")
