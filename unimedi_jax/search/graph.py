"""A graph of near neighbours for indices of millions of rows: HNSW (Malkov and Yashunin, 2018, arXiv 1603.09320).

Built and walked by faiss (requirements-faiss.txt). On the disk it is three arrays of integers a graph, not a file of
faiss's, whose reader trusts what it reads: an index may come from a stranger, so every edge is checked first.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data.errors import UserError
from unimedi_jax.search import store
from unimedi_jax.search.store import ADVICE, Index

LINKS = 32  # edges of a row in each layer above the lowest, which has twice as many
BUILD_WIDTH, SEARCH_WIDTH = 100, 256  # candidates that are kept while an edge or an answer is sought
MOST_LAYERS = 32
INSTALL = "pip install -r requirements-faiss.txt"


class Graph:
    """The graph of one kind of vectors: rows of the index that have one, and faiss's walk along their edges."""

    def __init__(self, rows: Int[np.ndarray, " m"], walker: Any) -> None:
        self.rows, self._walker = rows, walker

    def search(
        self, query: Float[np.ndarray, " e"], k: int, mask: Bool[np.ndarray, " n"] | None
    ) -> tuple[Int[np.ndarray, " j"], Float[np.ndarray, " j"]]:
        """Rows of the index and their cosines, best first."""
        faiss = library()
        selector = {}
        if mask is not None:
            bits = np.packbits(mask[self.rows], bitorder="little")
            selector = {"sel": faiss.IDSelectorBitmap(bits)}
        parameters = faiss.SearchParametersHNSW(efSearch=max(SEARCH_WIDTH, 2 * k), **selector)
        scores, places = self._walker.search(query[None].astype(np.float32), k, params=parameters)
        valid = places[0] >= 0
        rows, scores = self.rows[places[0][valid]], scores[0][valid]
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]


def library() -> Any:
    """faiss. Raises UserError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"an index of more than config.exact cases is searched by faiss: {INSTALL}") from error
    return faiss


def build(index: Index, name: str) -> dict[str, np.ndarray]:
    """The arrays of a graph over the rows of `name` ("z" or "z_report"), by the names of their files; none of no rows.

    Rows are added in blocks, each read from the disk once; faiss holds the vectors in memory beside the edges.
    """
    faiss = library()
    vectors = getattr(index, name)
    rows = np.flatnonzero(np.isfinite(vectors[:, 0])) if vectors.shape[1] else np.zeros(0, np.int64)
    if not len(rows):
        return {}
    walker = _empty(vectors.shape[1])
    walker.hnsw.efConstruction = BUILD_WIDTH
    for start in range(0, len(rows), store.BLOCK):
        walker.add(np.ascontiguousarray(vectors[rows[start : start + store.BLOCK]]))
    parts = {"rows": rows}
    parts["levels"] = _integers(walker.hnsw.levels)
    parts["neighbors"] = faiss.vector_to_array(walker.hnsw.neighbors).astype(np.int32)
    return {f"graph_{name}.{part}.npy": array for part, array in parts.items()}


def _integers(vector: Any) -> np.ndarray:
    """The numbers of a C++ vector of faiss. SimpleITK, loaded after it, makes such vectors a class of its own."""
    own = hasattr(vector, "at")
    return (library().vector_to_array(vector) if own else np.array(list(vector))).astype(np.int32)


def of(index: Index, name: str) -> Graph | None:
    """The graph of an index; None where it has none. Raises UserError for a damaged one."""
    if f"graph_{name}.rows.npy" not in index.graphs:
        return None
    return index.once(("graph", name), lambda: _open(index, name))


def _open(index: Index, name: str) -> Graph:
    faiss = library()
    vectors = getattr(index, name)
    try:
        rows, levels, neighbors = (index.graphs[f"graph_{name}.{part}.npy"] for part in ("rows", "levels", "neighbors"))
    except KeyError as error:
        raise UserError(f"{index.folder} lacks a file of its graph: {ADVICE}") from error
    offsets = check(rows, levels, neighbors, len(index))
    walker = _empty(vectors.shape[1])
    storage = faiss.downcast_index(walker.storage)
    for start in range(0, len(rows), store.BLOCK):
        storage.add(np.ascontiguousarray(vectors[rows[start : start + store.BLOCK]]))
    walker.ntotal = len(rows)
    for field, kind, values in (("levels", faiss.Int32Vector, levels), ("offsets", faiss.UInt64Vector, offsets)):
        vector = kind()
        faiss.copy_array_to_vector(np.ascontiguousarray(values), vector)
        setattr(walker.hnsw, field, vector)
    faiss.copy_array_to_vector(np.ascontiguousarray(neighbors), walker.hnsw.neighbors)
    walker.hnsw.entry_point = int(np.argmax(levels))
    walker.hnsw.max_level = int(levels.max()) - 1
    return Graph(rows, walker)


def check(rows: np.ndarray, levels: np.ndarray, neighbors: np.ndarray, total: int) -> Int[np.ndarray, " m1"]:
    """Where the edges of each row begin, uint64 (m + 1,), after every edge has been checked.

    faiss follows an edge without looking: one that leads out of the arrays would read other memory, and an edge of a
    layer must lead to a row that is in this layer.

    Raises:
        UserError: anything else than what `build` makes.
    """
    flaw = UserError(f"the index has a graph that no build makes: {ADVICE}")
    dtypes = (rows.dtype, levels.dtype, neighbors.dtype)
    if dtypes != (np.int64, np.int32, np.int32) or not 0 < len(rows) == len(levels) <= total:
        raise flaw
    if rows[0] < 0 or rows[-1] >= total or (np.diff(rows) <= 0).any():
        raise flaw
    if not 0 < levels.min() <= levels.max() <= MOST_LAYERS:
        raise flaw
    offsets = np.zeros(len(levels) + 1, np.uint64)
    np.cumsum(LINKS * (1 + levels.astype(np.int64)), out=offsets[1:], dtype=np.uint64)
    if int(offsets[-1]) != len(neighbors) or neighbors.min() < -1 or neighbors.max() >= len(rows):
        raise flaw
    for layer in range(int(levels.max())):
        members = np.flatnonzero(levels > layer)
        first, count = (0, 2 * LINKS) if layer == 0 else (LINKS * (1 + layer), LINKS)
        for start in range(0, len(members), store.BLOCK):
            begin = offsets[members[start : start + store.BLOCK]].astype(np.int64) + first
            edges = neighbors[begin[:, None] + np.arange(count)]
            if (levels[edges[edges >= 0]] <= layer).any():
                raise flaw
    return offsets


def _empty(width: int) -> Any:
    faiss = library()
    return faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
