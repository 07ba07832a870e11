"""The nearest rows: exactly those of scikit-learn, and along the graph those of faiss's own."""

import dataclasses
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from data.errors import UserError
from tests import tolerances
from unimedi_jax.search import graph, ranking, store
from unimedi_jax.search.ranking import Filters


def unit_rows(n: int, e: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, e)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def index_of(z: np.ndarray, graphs: dict | None = None) -> store.Index:
    """An index in memory with the same vectors for pictures and reports."""
    n = len(z)
    facts = {"rows": n, "width": z.shape[1], "labels": ["nodule", "mass"]}
    columns = {
        "id": np.array([f"case {i}" for i in range(n)], object),
        "patient": np.array([f"patient {i // 2}" for i in range(n)], object),
        "modality": np.array(["xray", "ct"] * (n // 2), object),
        "split": np.array((["train"] * 3 + ["test"]) * (n // 4), object),
    }
    labels = np.resize(np.array([[1, 0], [0, -1], [-1, 1]], np.int8), (n, 2))
    return store.Index(None, facts, z, z, labels, np.zeros((n, 0, 0), np.uint8), columns, graphs or {})


def test_the_nearest_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 300)  # four blocks
    z, queries = unit_rows(1000, 24), unit_rows(5, 24, seed=1)
    distances, rows = NearestNeighbors(metric="cosine", algorithm="brute").fit(z).kneighbors(queries, 7)
    for query, near, away in zip(queries, rows, distances, strict=True):
        hits = ranking.nearest(index_of(z), "pictures", query, 7, None, exact=1000)
        assert [hit.row for hit in hits] == near.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], 1 - away, atol=tolerances.float32(24))


@given(
    st.lists(st.sampled_from([0.5, -0.25, 0.0, 1.0, float("nan"), 0.125]), min_size=1, max_size=30),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_equal_scores_stand_in_the_order_of_the_index_and_nan_never(values, k, random):
    scores = np.array(values, np.float32)
    mask = np.array([random.random() < 0.8 for _ in values])
    expected = sorted(
        (row for row in range(len(values)) if mask[row] and values[row] == values[row]),
        key=lambda row: (-values[row], row),
    )[:k]
    rows, best = ranking.best(scores, k, mask)
    assert rows.tolist() == expected
    assert best.tolist() == [values[row] for row in expected]


def test_filters_leave_what_passes_all_of_them():
    index = index_of(unit_rows(12, 4))
    mask = ranking.allowed(index, Filters("xray", "train", "nodule"))
    expected = [i for i in range(12) if i % 2 == 0 and i % 4 != 3 and i % 3 == 0]
    assert np.flatnonzero(mask).tolist() == expected
    assert ranking.allowed(index, Filters()) is None
    for filters, words in (
        (Filters("mri"), "config.modality=mri: the index has ct, xray"),
        (Filters(split="val"), "config.split=val: the index has test, train"),
        (Filters(label="fracture"), "config.label=fracture: the index has nodule, mass"),
    ):
        with pytest.raises(UserError, match=words):
            ranking.allowed(index, filters)


@pytest.fixture(scope="module")
def large() -> store.Index:
    """Clustered vectors, as embeddings are, some of them missing, and their graph."""
    rng = np.random.default_rng(3)
    z = unit_rows(4000, 16)[rng.integers(0, 40, 4000)] + 0.3 * unit_rows(4000, 16, seed=4)
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    z[rng.random(4000) < 0.1] = np.nan
    index = index_of(z)
    return dataclasses.replace(index, graphs=graph.build(index, "z") | graph.build(index, "z_report"))


def test_a_graph_is_built_beside_simpleitk_too():
    import SimpleITK  # noqa: F401 - from here on std::vector<int> is a class of its own

    index = index_of(unit_rows(50, 8))
    arrays = graph.build(index, "z")
    assert arrays["graph_z.levels.npy"].dtype == np.int32
    assert len(arrays["graph_z.levels.npy"]) == 50


def test_the_graph_from_arrays_answers_as_faiss_does_and_nearly_always_as_the_product(large):
    valid = np.flatnonzero(np.isfinite(large.z[:, 0]))
    judge = faiss.IndexHNSWFlat(16, graph.LINKS, faiss.METRIC_INNER_PRODUCT)
    judge.hnsw.efConstruction = graph.BUILD_WIDTH
    judge.add(large.z[valid])
    judge.hnsw.efSearch = graph.SEARCH_WIDTH
    same = total = 0
    for query in unit_rows(40, 16, seed=5):
        along = ranking.nearest(large, "pictures", query, 10, None, exact=100)
        exactly = ranking.nearest(large, "pictures", query, 10, None, exact=4000)
        scores, _ = judge.search(query[None], 10)
        np.testing.assert_allclose([hit.score for hit in along], scores[0], atol=tolerances.float32(16))
        same += len({hit.row for hit in along} & {hit.row for hit in exactly})
        total += 10
    assert same >= 0.97 * total


def test_the_graph_holds_to_filters_and_small_choices_are_compared_one_by_one(large):
    mask = ranking.allowed(large, Filters("ct"))
    query = unit_rows(1, 16, seed=6)[0]
    hits = ranking.nearest(large, "reports", query, 10, mask, exact=100)
    assert len(hits) == 10
    assert all(hit.row % 2 for hit in hits)
    few = np.zeros(4000, bool)
    few[[1, 5, 9]] = True
    assert {hit.row for hit in ranking.nearest(large, "pictures", query, 10, few, exact=100)} <= {1, 5, 9}


def test_a_graph_that_leads_elsewhere_is_refused(large):
    rows, levels, neighbors = (large.graphs[f"graph_z.{name}.npy"] for name in ("rows", "levels", "neighbors"))

    def changed(array, place, value):
        array = array.copy()
        array[place] = value
        return array

    top = int(np.argmax(levels))
    start = int(graph.LINKS * (1 + levels[:top].astype(int)).sum() + 2 * graph.LINKS)
    low = int(np.flatnonzero(levels == 1)[0])
    graph.check(rows, levels, neighbors, len(large))
    for damaged in (
        (rows, levels, changed(neighbors, 5, len(rows))),
        (rows, levels, changed(neighbors, 5, -2)),
        (rows, levels, changed(neighbors, start, low)),  # a row that is not in the second layer
        (rows, levels, neighbors[:-1]),
        (rows, changed(levels, 0, 40), neighbors),
        (rows, changed(levels, 0, 0), neighbors),
        (changed(rows, 0, rows[1]), levels, neighbors),
        (changed(rows, -1, 4000), levels, neighbors),
        (rows.astype(np.int32), levels, neighbors),
    ):
        with pytest.raises(UserError, match="a graph that no build makes"):
            graph.check(*damaged, len(large))


def test_without_faiss_a_line_says_what_to_install(large, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    query = unit_rows(1, 16)[0]
    with pytest.raises(UserError, match=r"pip install -r requirements-faiss.txt"):
        ranking.nearest(dataclasses.replace(large, computed={}), "pictures", query, 3, None, exact=100)
    assert len(ranking.nearest(large, "pictures", query, 3, None, exact=4000)) == 3
