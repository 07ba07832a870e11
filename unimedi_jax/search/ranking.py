"""The nearest cases to a query: exactly by a matrix product, or along a graph where there are millions of them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from data.errors import UserError
from unimedi_jax.search import codes, graph
from unimedi_jax.search.store import Index

KINDS = {"pictures": "z", "reports": "z_report"}  # what may be near a query, and the array that holds it
BLOCK = 1 << 16  # rows that are multiplied at a time: what is not in memory is read once


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which cases count; "" is any."""

    modality: str = ""  # "xray", "ct"
    split: str = ""
    label: str = ""  # a finding that the case has


@dataclasses.dataclass(frozen=True)
class Hit:
    """A case near a query: its row in the index, and the cosine."""

    row: int
    score: float


def allowed(index: Index, filters: Filters) -> Bool[np.ndarray, " n"] | None:
    """The cases that pass; None where all do.

    Raises:
        UserError: the index has no such label, modality or split.
    """
    masks = []
    for name in ("modality", "split"):
        if value := getattr(filters, name):
            known = values(index, name)
            if value not in known:
                raise UserError(f"config.{name}={value}: the index has {', '.join(known) or 'none'}")
            masks.append(index.once((name, value), lambda name=name, value=value: index.columns[name] == value))
    if filters.label:
        known = index.facts["labels"]
        if filters.label not in known:
            raise UserError(f"config.label={filters.label}: the index has {', '.join(known) or 'no labels'}")
        column = known.index(filters.label)
        masks.append(index.once(("label", column), lambda: index.labels[:, column] == 1))
    return np.logical_and.reduce(masks) if masks else None


def values(index: Index, name: str) -> list[str]:
    """What a column, "modality" or "split", holds, without blanks."""
    return index.once(("values", name), lambda: sorted(set(index.columns[name]) - {""}))


def nearest(
    index: Index, kind: str, query: Float[np.ndarray, " e"], k: int, mask: Bool[np.ndarray, " n"] | None, exact: int
) -> list[Hit]:
    """The `k` nearest pictures or reports (`kind`, of KINDS) to a unit vector among the rows of `mask`, best first.

    Where more than `exact` cases are to be compared, and the index has a graph, the answer is that of the graph: nearly
    always the same (docs/search.md). Equal scores stand in the order of the index.
    """
    name = KINDS[kind]
    count = len(index) if mask is None else int(mask.sum())
    if count > exact and (edges := graph.of(index, name)) is not None:
        rows, scores = edges.search(query, k, mask)
    elif (coded := codes.nearest(index, name, query, k, mask)) is not None:
        rows, scores = ordered(*coded, k)
    else:
        rows, scores = best(products(getattr(index, name), query), k, mask)
    return [Hit(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]


def products(vectors: Float[np.ndarray, "n e"], query: Float[np.ndarray, " e"]) -> Float[np.ndarray, " n"]:
    """The inner product of every row with the query, float32; NaN where a row is."""
    scores = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        np.dot(vectors[start : start + BLOCK], query, out=scores[start : start + BLOCK])
    return scores


def best(
    scores: Float[np.ndarray, " n"], k: int, mask: Bool[np.ndarray, " n"] | None = None
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Rows and values of the `k` largest scores, largest first, equal ones by their row; NaN and others never."""
    valid = np.isfinite(scores) if mask is None else np.isfinite(scores) & mask
    rows = np.flatnonzero(valid)
    if len(rows) > k:
        values = scores[rows]
        least = np.partition(values, len(values) - k)[len(values) - k]
        rows = rows[values >= least]  # with all that equal the last one
    return ordered(rows, scores[rows], k)


def ordered(
    rows: Int[np.ndarray, " m"], scores: Float[np.ndarray, " m"], k: int
) -> tuple[Int[np.ndarray, " j"], Float[np.ndarray, " j"]]:
    """At most `k` of these rows and their scores, the best first, equal ones by their row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def unit(vector: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"]:
    """The vector at length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
