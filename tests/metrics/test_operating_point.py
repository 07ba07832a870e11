"""CT-CLIP's numbers at the operating point against a search over its 100 cuts, and scikit-learn."""

import numpy as np
import pytest

from unimedi_jax.metrics import operating_point

metrics = pytest.importorskip("sklearn.metrics")


def of_ct_clip(probability, target):
    """Calls above the cut, of 100 even ones, with the fewest errors of both kinds: a root of squares, the last wins."""
    errors = {}
    for cut in np.linspace(0, 1, 100):
        missed, wrong = (probability[target == 1] <= cut).mean(), (probability[target == 0] > cut).mean()
        errors[cut] = round((missed**2 + wrong**2) ** 0.5, 9)
    return probability > max(cut for cut in errors if errors[cut] == min(errors.values()))


@pytest.mark.parametrize("seed", range(5))
def test_the_point_is_ct_clip_s_and_its_numbers_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((200, 4)) < [0.5, 0.1, 0.8, 0.4]).astype(float)
    signal = rng.standard_normal((200, 4)) * [1, 1.5, 0.7, 1] + targets * [1, 0.7, 1.5, 0]
    signal[:, 3] = 1 - targets[:, 3]  # the wrong way round: no point beats calling nothing
    # As probabilities between the cuts, every one of which then parts the scores as one between two of them does.
    probabilities = (np.floor(99 / (1 + np.exp(-signal))) + 0.5) / 99
    expected = []
    for probability, target in zip(probabilities.T, targets.T, strict=True):
        called = of_ct_clip(probability, target)
        accuracy = metrics.accuracy_score(target, called), metrics.f1_score(target, called, average="weighted")
        expected.append((*accuracy, metrics.precision_score(target, called, zero_division=0)))
    actual = operating_point.measure(probabilities, targets)
    for kind, value in zip(operating_point.KINDS, np.mean(expected, axis=0), strict=True):
        assert actual[f"point/{kind}"] == pytest.approx(value, abs=1e-12)
    assert not of_ct_clip(probabilities[:, 3], targets[:, 3]).any()


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
