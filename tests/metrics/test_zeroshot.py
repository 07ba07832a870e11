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
    auc = zeroshot.auc(direction.sum(axis=1), positive, negative, labels, score="difference")
    assert auc.per_label.tolist() == [1.0, 1.0]
    swapped = zeroshot.auc(direction.sum(axis=1), negative, positive, labels, score="difference")
    assert swapped.macro == pytest.approx(1 - auc.macro, abs=1e-12)
    assert (swapped.per_label < auroc.INVERTED_BELOW).all()


def test_score_is_the_difference_of_cosines_to_the_ensembles() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(30, 6))
    positive, negative = [rng.normal(size=(4, 6)) * 5], [rng.normal(size=(2, 6))]  # ragged is fine

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    expected = unit(z) @ (unit(unit(positive[0]).mean(0)) - unit(unit(negative[0]).mean(0)))
    difference = zeroshot.scores(z, positive, negative, "difference")
    np.testing.assert_allclose(difference[:, 0], expected, atol=1e-12)
    labels = rng.integers(0, 2, (30, 1)).astype(float)
    theirs = roc_auc_score(labels[:, 0], expected)
    assert zeroshot.auc(z, positive, negative, labels, score="difference").macro == pytest.approx(theirs, abs=1e-12)


def test_a_finding_needs_prompts() -> None:
    with pytest.raises(ValueError, match="prompt"):
        zeroshot.scores(np.ones((2, 3)), [np.ones((0, 3))], [np.ones((1, 3))], "difference")


def test_no_images() -> None:
    auc = zeroshot.auc(np.zeros((0, 3)), np.ones((1, 1, 3)), -np.ones((1, 1, 3)), np.zeros((0, 1)), score="difference")
    assert np.isnan(auc.macro)
    assert auc.undefined == 1


def test_a_score_against_the_other_findings_is_written_out() -> None:
    """By loops over images, findings and prompts; findings without denials have the others alone."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(7, 5))
    positive = [rng.normal(size=(n, 5)) for n in (1, 3, 2)]
    negative = [rng.normal(size=(2, 5)), np.zeros((0, 5)), rng.normal(size=(1, 5))]

    def centre(prompts: np.ndarray) -> np.ndarray:
        total = sum(row / np.sqrt(row @ row) for row in prompts)
        return total / np.sqrt(total @ total)

    for i, image in enumerate(z):
        image = image / np.sqrt(image @ image)
        own = [image @ centre(prompts) for prompts in positive]
        for j in range(3):
            others = own[j] - np.mean([own[k] for k in range(3) if k != j])
            difference = own[j] - image @ centre(negative[j]) if len(negative[j]) else others
            total = difference + others if len(negative[j]) else others
            for score, value in (("difference", difference), ("others", others), ("sum", total)):
                assert zeroshot.scores(z, positive, negative, score)[i, j] == pytest.approx(value, abs=1e-12)
                assert abs(value) <= zeroshot.LARGEST


def test_a_single_finding_has_no_others() -> None:
    rng = np.random.default_rng(3)
    z, positive, negative = rng.normal(size=(9, 4)), [rng.normal(size=(2, 4))], [rng.normal(size=(2, 4))]
    difference = zeroshot.scores(z, positive, negative, "difference")
    for score in ("others", "sum"):
        np.testing.assert_array_equal(zeroshot.scores(z, positive, negative, score), difference)
    alone = zeroshot.scores(z, positive, [np.zeros((0, 4))], "sum")
    opposite = zeroshot.scores(z, positive, [-positive[0]], "difference")
    assert np.argsort(alone[:, 0]).tolist() == np.argsort(opposite[:, 0]).tolist()


def test_no_other_score() -> None:
    with pytest.raises(ValueError, match="difference, others, sum"):
        zeroshot.scores(np.ones((2, 3)), [np.ones((1, 3))], [np.ones((1, 3))], "product")
