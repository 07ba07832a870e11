"""Recall against a slow count and scikit-learn, chance against random rankings."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from unimedi_jax.metrics import ranking, retrieval


def _pairs(n: int, seed: int = 0, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 16))
    return z + noise * rng.normal(size=z.shape), 7 * (z + noise * rng.normal(size=z.shape))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_distinct_reports_equal_sklearn(k: int) -> None:
    z_image, z_text = _pairs(80)
    similarity = (z_image @ z_text.T) / np.outer(np.linalg.norm(z_image, axis=1), np.linalg.norm(z_text, axis=1))
    rates = retrieval.recall(z_image, z_text, np.arange(80), ks=(k,))
    truth = np.arange(80)
    assert rates[f"i2t_r{k}"] == top_k_accuracy_score(truth, similarity, k=k)
    assert rates[f"t2i_r{k}"] == top_k_accuracy_score(truth, similarity.T, k=k)
    assert rates[f"chance_r{k}"] == pytest.approx(k / 80, abs=1e-12)


def test_identical_reports_are_right_answers_to_each_other() -> None:
    z_text = np.eye(4)
    z_image = np.eye(4)[[1, 0, 2, 2]]  # 0 and 1 swapped, 3 finds 2
    reports = ["clear lungs", "clear lungs", "left nodule", "right effusion"]
    rates = retrieval.recall(z_image, z_text, reports, ks=(1,))
    assert rates["i2t_r1"] == 0.75
    # Report 2 ties images 2 and 3, report 3 is orthogonal to all four images.
    assert rates["t2i_r1"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)
    assert (rates["pairs"], rates["distinct"]) == (4, 3)


def test_chance_equals_random_rankings() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 12, 40) ** 2  # groups of very different sizes
    exact = retrieval.recall(np.ones((40, 2)), np.ones((40, 2)), groups)
    for k in (1, 5, 10):
        hits = [
            (groups[rng.permuted(np.tile(np.arange(40), (40, 1)), axis=1)[:, :k]] == groups[:, None]).any(axis=1).mean()
            for _ in range(1500)
        ]
        assert exact[f"chance_r{k}"] == pytest.approx(np.mean(hits), abs=5 * np.std(hits) / 1500**0.5)


def test_collapsed_embeddings_get_exactly_chance() -> None:
    z = np.full((30, 8), 0.1, np.float32)
    rates = retrieval.recall(z, z, [f"report {i % 11}" for i in range(30)])
    for k in (1, 5, 10):
        assert rates[f"i2t_r{k}"] == pytest.approx(rates[f"chance_r{k}"], abs=1e-12)
        assert rates[f"t2i_r{k}"] == pytest.approx(rates[f"chance_r{k}"], abs=1e-12)


def test_none_and_one_pair() -> None:
    none = retrieval.recall(np.zeros((0, 3)), np.zeros((0, 3)), [], resamples=5)
    assert none["pairs"] == 0
    assert all(np.isnan(none[key]) for key in ("i2t_r1", "t2i_r5", "chance_r10", "i2t_r1/low"))
    one = retrieval.recall(np.ones((1, 3)), -np.ones((1, 3)), ["x"])
    assert one["i2t_r1"] == one["t2i_r1"] == one["chance_r1"] == 1.0


def test_blocks_of_queries_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    z_image, z_text = _pairs(50)
    groups = np.arange(50) // 3
    whole = retrieval.recall(z_image, z_text, groups, resamples=50)
    found, rates = (*map(retrieval.vectors.unit_rows, (z_image, z_text)), groups % 3 - 1, groups % 4), retrieval.RATES
    by_finding = retrieval.by_finding(*found, ks=(5, 10), resamples=50)
    monkeypatch.setattr(retrieval, "ROWS", 7)
    assert retrieval.recall(z_image, z_text, groups, resamples=50) == whole
    ranked = []
    monkeypatch.setattr(retrieval.vectors, "unit_rows", lambda z: z)
    monkeypatch.setattr(
        retrieval, "RATES", [(name, lambda *x, f=f: ranked.append(len(x[0])) or f(*x)) for name, f in rates]
    )
    assert retrieval.by_finding(*found, ks=(5, 10), resamples=50) == by_finding
    assert max(ranked) == 7, "queries at a time"
    assert whole["i2t_r5/low"] <= whole["i2t_r5"] <= whole["i2t_r5/high"]


def test_a_long_report_makes_no_other_one_long() -> None:
    """As an array of numpy's text 400 reports beside one of 300,000 letters take half a gigabyte."""
    z_image, z_text = _pairs(400)
    reports = ["clear lungs"] * 399 + ["a nodule " * 33_333]
    tracemalloc.start()
    try:
        rates = retrieval.recall(z_image, z_text, reports)
        ranks = ranking.report_rank(z_image, z_text, reports)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    groups = np.array([0] * 399 + [1])
    assert rates == retrieval.recall(z_image, z_text, groups)
    np.testing.assert_array_equal(ranks, ranking.report_rank(z_image, z_text, groups))


def test_nearest_lists_the_best_first_and_keeps_the_order_of_ties() -> None:
    order, similarity = retrieval.nearest(np.array([[1.0, 0.0]]), np.array([[0, 1], [2, 0], [1, 1], [9, 0.0]]), 3)
    assert order.tolist() == [[1, 3, 2]]
    np.testing.assert_allclose(similarity, [[1, 1, 0.5**0.5]])


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.full((3, 3), np.nan), np.ones(3)])
def test_refuses_what_does_not_fit(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"texts|finite"):
        retrieval.recall(np.ones((3, 3)), bad, [0, 1, 2])


def test_precision_by_finding_equals_a_slow_count() -> None:
    rng = np.random.default_rng(1)
    z_query, z_candidate = rng.normal(size=(20, 6)), rng.normal(size=(33, 6))
    finding_query, finding_candidate = rng.integers(-1, 3, 20), rng.integers(-1, 3, 33)
    rates = retrieval.by_finding(z_query, z_candidate, finding_query, finding_candidate, ks=(5,), resamples=20)
    shares = []
    keep = finding_candidate >= 0
    for z, finding in zip(z_query, finding_query, strict=True):
        if finding < 0:
            continue
        cosine = z_candidate[keep] @ z / np.linalg.norm(z_candidate[keep], axis=1)
        shares.append((finding_candidate[keep][np.argsort(-cosine)[:5]] == finding).mean())
    assert rates["p5"] == pytest.approx(np.mean(shares))
    assert rates["hit5"] == pytest.approx(np.mean(np.array(shares) > 0))
    assert (rates["queries"], rates["candidates"]) == (len(shares), keep.sum())
    assert rates["p5/low"] <= rates["p5"] <= rates["p5/high"]


def test_collapsed_embeddings_find_by_chance() -> None:
    ones, findings = np.ones((30, 4)), np.arange(30) % 3 - (np.arange(30) < 4)
    rates = retrieval.by_finding(ones, ones, findings, findings, ks=(5, 100))
    for kind in ("p5", "hit5", "p100", "hit100"):
        assert rates[kind] == pytest.approx(rates[f"chance_{kind}"], abs=1e-12)
    assert rates["hit100"] == 1
    assert np.isnan(retrieval.by_finding(ones, ones, -np.ones(30), findings)["p5"])


def test_balanced_draw_takes_as_many_of_each() -> None:
    finding = np.repeat([-1, 0, 1, 2], [9, 20, 3, 8])
    rows = retrieval.balanced(finding, 5, seed=1)
    assert np.bincount(finding[rows]).tolist() == [5, 3, 5]
    assert rows.tolist() == retrieval.balanced(finding, 5, seed=1).tolist()
    assert not len(retrieval.balanced(np.full(3, -1), 5))
