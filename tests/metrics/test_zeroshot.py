"""Zero-shot scores on prompts whose answer is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unimedi_jax.metrics import auroc, zeroshot


def test_images_on_the_prompts_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(4)[:, None] + 0.1 * rng.normal(size=(4, 3, 4))  # one direction for each ensemble
    positive, negative = axes[:2], axes[2:]
    labels = rng.integers(0, 2, (40, 2)).astype(float)
    direction = np.where(labels[..., None] == 1, positive.mean(1), negative.mean(1))
    auc = zeroshot.auc(direction.sum(axis=1), positive, negative, labels)
    assert auc.per_label.tolist() == [1.0, 1.0]
    swapped = zeroshot.auc(direction.sum(axis=1), negative, positive, labels)
    assert swapped.macro == pytest.approx(1 - auc.macro, abs=1e-12)
    assert (swapped.per_label < auroc.INVERTED_BELOW).all()


def test_score_is_the_difference_of_cosines_to_the_ensembles() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(30, 6))
    positive, negative = [rng.normal(size=(4, 6)) * 5], [rng.normal(size=(2, 6))]  # ragged is fine

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    expected = unit(z) @ (unit(unit(positive[0]).mean(0)) - unit(unit(negative[0]).mean(0)))
    difference = zeroshot.scores(z, positive, negative)
    np.testing.assert_allclose(difference[:, 0], expected, atol=1e-12)
    labels = rng.integers(0, 2, (30, 1)).astype(float)
    theirs = roc_auc_score(labels[:, 0], expected)
    assert zeroshot.auc(z, positive, negative, labels).macro == pytest.approx(theirs, abs=1e-12)


def test_a_finding_needs_prompts() -> None:
    with pytest.raises(ValueError, match="prompt"):
        zeroshot.scores(np.ones((2, 3)), [np.ones((0, 3))], [np.ones((1, 3))])


def test_no_images() -> None:
    auc = zeroshot.auc(np.zeros((0, 3)), np.ones((1, 1, 3)), -np.ones((1, 1, 3)), np.zeros((0, 1)))
    assert np.isnan(auc.macro)
    assert auc.undefined == 1
