"""CT-CLIP's numbers at the operating point against scikit-learn."""

import numpy as np
import pytest

from unimedi_jax.metrics import operating_point

metrics = pytest.importorskip("sklearn.metrics")


def test_accuracy_f1_and_precision_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < [0.5, 0.1, 0.8]).astype(float)
    scores = rng.standard_normal((200, 3)) + targets
    expected = []
    for score, target in zip(scores.T, targets.T, strict=True):
        false, true, cuts = metrics.roc_curve(target, score, drop_intermediate=False)
        called = score >= cuts[np.argmax(true - false)]
        expected.append(
            (
                metrics.accuracy_score(target, called),
                metrics.f1_score(target, called, average="weighted"),
                metrics.precision_score(target, called),
            )
        )
    actual = operating_point.measure(scores, targets)
    for kind, value in zip(operating_point.KINDS, np.mean(expected, axis=0), strict=True):
        assert actual[f"point/{kind}"] == pytest.approx(value, abs=1e-12)


def test_unknown_targets_and_labels_of_one_class_do_not_count():
    rng = np.random.default_rng(1)
    targets = (rng.random((50, 2)) < 0.5).astype(float)
    scores = rng.random((50, 2)) + targets
    whole = operating_point.measure(scores, targets)
    more = np.concatenate([targets, np.ones((50, 1))], axis=1)
    assert operating_point.measure(np.concatenate([scores, scores[:, :1]], axis=1), more) == whole
    padded = np.concatenate([targets, np.full((5, 2), np.nan)])
    assert operating_point.measure(np.concatenate([scores, rng.random((5, 2))]), padded) == whole
    assert all(np.isnan(list(operating_point.measure(scores, np.ones((50, 2))).values())))
