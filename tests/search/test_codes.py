"""Rows as bytes: the answers of a comparison of all rows, or none where it cannot be known that they are."""

import dataclasses

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tests import tolerances
from tests.search.test_ranking import index_of, unit_rows
from unimedi_jax.search import codes, ranking, store

WIDTH = 48


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(codes, "LEAST", 1)
    monkeypatch.setattr(codes, "RERANKED", 60)
    monkeypatch.setattr(codes, "BLOCK", 1000)  # three blocks, the last one short


def rows(kind: str) -> np.ndarray:
    """Vectors in all directions, or near one as those of contrastive encoders are, of which some are missing."""
    z = unit_rows(2600, WIDTH)
    if kind == "cone":
        z = z + 3 * unit_rows(1, WIDTH, seed=9)
        z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
        z[::7] = np.nan
    return z


@pytest.fixture(params=["all directions", "cone"])
def index(request) -> store.Index:
    index = index_of(rows(request.param))
    codes.prepare(index)
    return index


def test_codes_lie_no_farther_from_their_rows_than_is_said(index):
    made = index.computed["codes", "z"]
    assert made.rows.tolist() == np.flatnonzero(np.isfinite(index.z[:, 0])).tolist()
    decoded = made.mean + (made.values.astype(np.float64) - 128) / made.scale
    away = np.linalg.norm(decoded - index.z[made.rows], axis=1)
    assert away.max() == pytest.approx(made.error, rel=1e-3)
    assert made.error < 0.03


def test_the_nearest_are_those_of_scikit_learn_with_and_without_filters(index, monkeypatch):
    calls = []
    products = ranking.products
    monkeypatch.setattr(ranking, "products", lambda *args: calls.append(1) or products(*args))
    valid = np.isfinite(index.z[:, 0])
    mask = np.arange(2600) % 3 != 0
    for chosen in (None, mask, np.arange(2600) < 20):
        rows = np.flatnonzero(valid if chosen is None else valid & chosen)
        judge = NearestNeighbors(metric="cosine", algorithm="brute").fit(index.z[rows])
        for query in index.z[rows[:5]]:
            distances, places = judge.kneighbors(query[None], 8)
            hits = ranking.nearest(index, "pictures", query, 8, chosen, exact=2600)
            assert [hit.row for hit in hits] == rows[places[0]].tolist()
            np.testing.assert_allclose([hit.score for hit in hits], 1 - distances[0], atol=tolerances.float32(WIDTH))
    assert not calls  # no rows were compared in float32 but those that are nearest by their codes


def test_what_is_not_certain_is_compared_again(index):
    query = unit_rows(1, WIDTH, seed=4)[0]
    expected = ranking.nearest(index_of(index.z), "pictures", query, 50, None, exact=2600)
    made = index.computed["codes", "z"]
    index.computed["codes", "z"] = dataclasses.replace(made, error=2.0)  # as if codes lay anywhere
    assert codes.nearest(index, "z", query, 50, None) is None
    assert ranking.nearest(index, "pictures", query, 50, None, exact=2600) == expected


def test_few_rows_and_rows_of_other_lengths_have_no_codes(monkeypatch):
    assert codes.make(2 * unit_rows(100, WIDTH)) is None
    assert codes.make(np.full((100, WIDTH), np.nan, np.float32)) is None
    monkeypatch.setattr(codes, "LEAST", 100 * WIDTH + 1)
    assert codes.make(unit_rows(100, WIDTH)) is None
    assert codes.nearest(index_of(unit_rows(100, WIDTH)), "z", unit_rows(1, WIDTH)[0], 3, None) is None
