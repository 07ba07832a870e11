"""Numbers of single patients: their means are those of the metrics that give means alone, or of slow loops."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from unimedi_jax.metrics import gap, retrieval, shared_space, slices


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    finding = rng.integers(-1, 4, 60), rng.integers(-1, 4, 50)
    centres = rng.normal(size=(5, 8))
    a, b = (centres[f] + rng.normal(size=(len(f), 8)) for f in finding)
    return a, b + 0.4, *finding


def test_own_hits_are_recall(clouds):
    a, b, *_ = clouds
    hits = shared_space.own_hits(a[:50], b, 5)
    assert hits.shape == (50,)
    assert hits.mean() == retrieval.recall(a[:50], b, list(range(50)), ks=(5,))["i2t_r5"]
    assert shared_space.own_hits(b, b, 1).all()


def test_precision_across_is_that_by_finding(clouds):
    a, b, finding_a, finding_b = clouds
    each = shared_space.precision(a, b, finding_a, finding_b, 5)
    assert (np.isnan(each) == (finding_a < 0)).all()
    assert np.nanmean(each) == pytest.approx(retrieval.by_finding(a, b, finding_a, finding_b)["p5"])


def test_precision_within_leaves_the_query_out(clouds):
    a, _, finding, _ = clouds
    each = shared_space.precision(a, a, finding, finding, 3, same=True)
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    for row in np.flatnonzero(finding >= 0):
        others = [j for j in range(len(a)) if j != row and finding[j] >= 0]
        nearest = sorted(others, key=lambda j: -(unit[row] @ unit[j]))[:3]
        assert each[row] == pytest.approx(np.mean([finding[j] == finding[row] for j in nearest]))


def test_modality_accuracy_is_that_of_the_gap(clouds):
    a, b, *_ = clouds
    correct = shared_space.modality_correct(a, b)
    accuracy = (correct[: len(a)].mean() + correct[len(a) :].mean()) / 2
    # The folds' means, and the mean over all rows: folds differ in size by one row.
    assert accuracy == pytest.approx(gap.modality_gap(a, b).accuracy, abs=0.01)
    assert np.isnan(shared_space.modality_correct(a[:1], b)).all()


def test_separation_is_the_silhouette(clouds):
    a, _, finding, _ = clouds
    each = shared_space.separation(a, finding)
    expected = silhouette_score(a[finding >= 0], finding[finding >= 0], metric="cosine")
    assert np.nanmean(each) == pytest.approx(expected)
    assert np.isnan(shared_space.separation(a, np.zeros(len(a), int))).all()


def test_slices_case_by_case_are_the_hit_rate():
    rng = np.random.default_rng(0)
    scores, lesion = rng.normal(size=(40, 8)), rng.random((40, 32)) < 0.04
    hit, random = slices.cases(scores, lesion, 2)
    rate = slices.hit_rate(scores, lesion, 2)
    assert (np.nanmean(hit), np.nanmean(random)) == (rate.measured, rate.random)
    assert np.isnan(hit).sum() == rate.without_lesion + rate.all_lesion
    touched = lesion.reshape(40, 8, 4).any(2)
    for row in np.flatnonzero(~np.isnan(hit)):
        assert hit[row] == touched[row, np.argsort(-scores[row])[:2]].any()
