"""Chances against scipy's hypergeometric law, hits against counting."""

import itertools

import numpy as np
import pytest
from scipy import stats

from unimedi_jax.metrics import chance


def test_equals_the_hypergeometric_law() -> None:
    total, correct, draws = np.meshgrid(np.arange(1, 40), np.arange(6), np.arange(9))
    fits = (correct <= total) & (draws <= total)
    total, correct, draws = total[fits], correct[fits], draws[fits]
    theirs = stats.hypergeom.sf(0, total, correct, draws)
    np.testing.assert_allclose(chance.hit_probability(total, correct, draws), theirs, atol=1e-12)


def test_certain_cases_are_exact() -> None:
    total = np.array([7, 7, 7, 3])
    chances = chance.hit_probability(total, np.array([0, 7, 2, 1]), np.array([5, 1, 6, 50]))
    assert chances.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="correct"):
        chance.hit_probability(np.array(3), np.array(4), np.array(1))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_ties_count_as_the_mean_over_their_orders(k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 3, (20, 5)).astype(float)
    correct = rng.random((20, 5)) < 0.3
    counted = []
    for row, right in zip(scores, correct, strict=True):
        orders = itertools.permutations(range(5))
        ranked = [sorted(order, key=lambda c, row=row: -row[c]) for order in orders]
        counted.append(np.mean([right[order[:k]].any() for order in ranked]))
    np.testing.assert_allclose(chance.top_k_hit(scores, correct, k), counted, atol=1e-12)


def test_no_candidates_no_hit() -> None:
    assert chance.top_k_hit(np.zeros((2, 0)), np.zeros((2, 0), bool), 1).tolist() == [0.0, 0.0]


def test_refuses_nan_scores() -> None:
    with pytest.raises(ValueError, match="finite"):
        chance.top_k_hit(np.array([[np.nan, 1.0]]), np.array([[True, False]]), 1)
