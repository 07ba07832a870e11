"""The number of each case that a page picks its examples by: against scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unimedi_jax.metrics import auroc, ranking, retrieval


def test_best_median_and_worst() -> None:
    nan = float("nan")
    assert ranking.picked(np.array([0.2, nan, 0.9, 0.5, 0.9, nan, 0.1])) == {"best": 2, "median": 3, "worst": 6}
    assert ranking.picked(np.array([0.2, 0.9])) == {"best": 1, "worst": 0}
    assert ranking.picked(np.array([nan, 0.9])) == {"best": 1}
    assert ranking.picked(np.array([nan, nan])) == {}


def test_attention_auc_is_that_of_each_case() -> None:
    rng = np.random.default_rng(0)
    scores, lesion = rng.random((5, 30)).round(1), rng.random((5, 30)) < 0.2  # with ties
    lesion[3], lesion[4] = False, True
    values = ranking.attention_auc(scores, lesion)
    for row in range(3):
        assert values[row] == pytest.approx(roc_auc_score(lesion[row], scores[row]))
    assert np.isnan(values[3:]).all(), "nothing to rank"


def test_finding_auc_of_cases_averages_to_the_auc_of_the_finding() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((40, 2)).round(1)
    labels = np.where(rng.random((40, 2)) < 0.1, np.nan, (rng.random((40, 2)) < 0.3).astype(float))
    for column in range(2):
        alone = ranking.finding_auc(scores[:, column : column + 1], labels[:, column : column + 1])
        assert (np.isnan(alone) == (labels[:, column] != 1)).all()
        assert np.nanmean(alone) == pytest.approx(auroc.auroc(scores[:, column], labels[:, column]))
    both, (first, second) = ranking.finding_auc(scores, labels), (labels == 1).T
    one = ranking.finding_auc(scores[:, :1], labels[:, :1])
    np.testing.assert_allclose(both[first & ~second], one[first & ~second])
    assert np.isnan(ranking.finding_auc(scores, np.ones((40, 2)))).all(), "nobody is without"


def test_rank_of_the_own_report_agrees_with_recall() -> None:
    rng = np.random.default_rng(2)
    image, text = rng.normal(size=(2, 50, 4))
    reports = [f"report {row % 30}" for row in range(50)]  # twenty are written twice
    ranks = ranking.report_rank(image, text, reports)
    for k in (1, 5, 10):
        recall = retrieval.recall(image, text, reports, ks=(k,))
        assert (ranks <= k).mean() == pytest.approx(recall[f"i2t_r{k}"])
    last = ranking.report_rank(image, np.ones((50, 4)), reports)
    assert last.tolist() == [49] * 20 + [50] * 10 + [49] * 20, "as similar as all others: last of those not the same"


def test_patches_that_show_a_lesion() -> None:
    mask = np.zeros((20, 24), np.uint8)
    mask[2, 4] = 1  # the first pixel of the centre
    mask[9, 12] = 254  # row 7, column 8 of it
    mask[1, 8] = 1  # above it
    mask[17, 19] = 255  # nobody has looked
    expected = np.zeros((4, 4), bool)
    expected[0, 0] = expected[1, 2] = True
    np.testing.assert_array_equal(ranking.lesion_patches(mask, 16, (4, 4)), expected.reshape(-1))
    assert not ranking.lesion_patches(np.full((16, 16), 255, np.uint8), 16, (4, 4)).any()
