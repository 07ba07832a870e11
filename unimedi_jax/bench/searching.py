"""Searching: how long one query takes among random embeddings, compared one by one and along a graph, on one core."""

import importlib.util
import pathlib
import time

import ml_collections
import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from unimedi_jax.bench import measure
from unimedi_jax.search import codes, graph, ranking
from unimedi_jax.search.ranking import Filters
from unimedi_jax.search.store import Index

ROWS, QUERIES, NEAREST = 200_000, 10, 10
WIDTHS = (128, 512)  # of the joint space: the default, and CLIP's
GOAL = "below 50"


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures 200,000 rows, with and without filters, and what finding them along a graph is worth."""
    results = []
    with threadpool_limits(1):
        for width in WIDTHS:
            index = _random(ROWS, width)
            queries = _units(QUERIES, width, seed=1)
            filters = {"": Filters(), ", one modality, split and finding": Filters("xray", "test", "nodule")}
            for how in ("", ", as bytes first"):
                for words, chosen in filters.items():
                    times = [_milliseconds(index, queries, chosen, exact=ROWS) for _ in range(config.rounds)]
                    name = f"{ROWS:,} rows of {width}{how}{words}"
                    results.append(measure.Result(name, "ms a query", tuple(times), GOAL))
                codes.prepare(index)
        if importlib.util.find_spec("faiss") is not None:
            results += _along_a_graph(config.rounds)
    measure.report("search: one query, one core, the nearest ten", results, workdir)


def _along_a_graph(rounds: int) -> list[measure.Result]:
    """Clustered vectors, as embeddings are: random ones in many dimensions have no near neighbours."""
    index = _random(ROWS // 10, WIDTHS[0], clusters=200)
    index.graphs.update(graph.build(index, "z"))
    queries = index.z[:: len(index) // QUERIES][:QUERIES]
    times = [_milliseconds(index, queries, Filters(), exact=0) for _ in range(rounds)]
    same = [
        len({hit.row for hit in _nearest(index, query, 0)} & {hit.row for hit in _nearest(index, query, len(index))})
        for query in queries
    ]
    name = f"{len(index):,} clustered rows of {WIDTHS[0]} along the graph"
    share = tuple(count / NEAREST for count in same)
    return [
        measure.Result(name, "ms a query", tuple(times)),
        measure.Result("its nearest ten that are those of the product", "", (float(np.mean(share)),)),
    ]


def _nearest(index: Index, query: Float[np.ndarray, " e"], exact: int) -> list[ranking.Hit]:
    return ranking.nearest(index, "pictures", query, NEAREST, None, exact)


def _milliseconds(index: Index, queries: Float[np.ndarray, "q e"], filters: Filters, exact: int) -> float:
    """Of processor time, which other work on the machine changes least."""
    started = time.process_time()
    for query in queries:
        ranking.nearest(index, "pictures", query, NEAREST, ranking.allowed(index, filters), exact)
    return 1000 * (time.process_time() - started) / len(queries)


def _units(rows: int, width: int, seed: int = 0) -> Float[np.ndarray, "n e"]:
    x = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _random(rows: int, width: int, clusters: int = 0) -> Index:
    """An index in memory."""
    rng = np.random.default_rng(0)
    z = _units(rows, width)
    if clusters:
        z = _units(clusters, width, seed=2)[rng.integers(0, clusters, rows)] + 0.5 * z
        z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    choices = {"modality": ["xray", "ct"], "split": ["train", "val", "test"]}
    columns = {name: rng.choice(np.array(values, object), rows) for name, values in choices.items()}
    labels = rng.integers(-1, 2, (rows, 1)).astype(np.int8)
    facts = {"rows": rows, "width": width, "labels": ["nodule"]}
    return Index(pathlib.Path(), facts, z, z, labels, np.zeros((rows, 0, 0), np.uint8), columns, {})
