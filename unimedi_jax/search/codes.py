"""Rows as bytes, for an index that is asked many times: the same answers from a quarter of the memory.

How long a query takes among rows of float32 is how long memory takes to be read. Coded as bytes, rows are compared by
OpenCV's integer distances, and the nearest few hundred again in float32. No code lies further from its row than is
known, so it is known as well whether another row could belong to the answer; then all rows are compared in float32.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from unimedi_jax.search.store import BLOCK, Index

LEAST = 1 << 24  # numbers in the rows: those of fewer are read as fast as they are
WIDEST = 1 << 13  # of a row: sums of its squared differences are integers of 32 bits
RERANKED = 512  # rows that are compared again
ROUNDING = 1e-5  # of a cosine in float32, and of the length of a unit vector


@dataclasses.dataclass(frozen=True)
class Codes:
    """Unit vectors about their mean, in whole steps of 1 / `scale`."""

    rows: Int[np.ndarray, " m"]  # of the index, in order: those that have a vector
    values: UInt8[np.ndarray, "m e"]
    mean: Float[np.ndarray, " e"]
    scale: float
    error: float  # the farthest that a code lies from its vector

    def candidates(
        self, query: Float[np.ndarray, " e"], count: int, mask: Bool[np.ndarray, " n"] | None
    ) -> tuple[Int[np.ndarray, " j"], float]:
        """The `count` rows of `mask` whose codes are nearest, and the least distance from the query of all others.

        The second is infinite where there are no others.
        """
        code = _encoded(query[None] - self.mean, self.scale)
        some = {} if mask is None else {"mask": mask[self.rows].astype(np.uint8)[None]}
        options = {"normType": cv2.NORM_L2SQR, "K": min(count, len(self.rows)), **some}
        squares, places = (x[0] for x in cv2.batchDistance(code, self.values, cv2.CV_32S, **options))
        valid = places >= 0
        if not valid.all() or len(places) == len(self.rows):
            return self.rows[places[valid]], float("inf")
        off = np.linalg.norm(query - self.mean - _decoded(code, self.scale)[0])
        return self.rows[places], float(np.sqrt(squares.max()) / self.scale - self.error - off)


def make(vectors: Float[np.ndarray, "n e"]) -> Codes | None:
    """Codes of the rows that are finite; None where they are too few to be worth it, or no unit vectors."""
    if vectors.size < LEAST or vectors.shape[1] > WIDEST:
        return None
    blocks = [slice(start, start + BLOCK) for start in range(0, len(vectors), BLOCK)]
    finite = np.concatenate([np.isfinite(vectors[block]).all(axis=1) for block in blocks])
    rows = np.flatnonzero(finite)
    parts = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    lengths = [np.linalg.norm(vectors[part], axis=1) for part in parts]
    if not parts or any(np.abs(length - 1).max() > ROUNDING for length in lengths):
        return None
    mean = np.mean([vectors[part].mean(axis=0) for part in parts], axis=0).astype(np.float32)
    scale = 127 / max(max(float(np.abs(vectors[part] - mean).max()) for part in parts), 1e-6)
    values, error = np.empty((len(rows), vectors.shape[1]), np.uint8), 0.0
    for number, part in enumerate(parts):
        centred = vectors[part] - mean
        coded = values[number * BLOCK : number * BLOCK + len(part)]
        coded[:] = _encoded(centred, scale)
        error = max(error, float(np.linalg.norm(centred - _decoded(coded, scale), axis=1).max()))
    return Codes(rows, values, mean, scale, error)


def prepare(index: Index) -> None:
    """Makes the codes of an opened index: a read of all its vectors, and a byte for each of their numbers."""
    for name in ("z", "z_report"):
        index.once(("codes", name), lambda name=name: make(getattr(index, name)))


def nearest(
    index: Index, name: str, query: Float[np.ndarray, " e"], k: int, mask: Bool[np.ndarray, " n"] | None
) -> tuple[Int[np.ndarray, " j"], Float[np.ndarray, " j"]] | None:
    """Some rows of `mask` and their cosines with a unit vector, the `k` nearest among them.

    None where the index was not prepared, or where rows that are not among them might be nearer.
    """
    codes: Codes | None = index.computed.get(("codes", name))
    if codes is None or abs(np.linalg.norm(query) - 1) > ROUNDING:
        return None
    rows, others = codes.candidates(query, max(RERANKED, 4 * k), mask)
    scores = getattr(index, name)[rows] @ query
    if np.isinf(others):
        return rows, scores
    if len(rows) < k or others <= 0:
        return None
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    return (rows, scores) if last > 1 - others**2 / 2 + 2 * ROUNDING else None


def _encoded(centred: Float[np.ndarray, "m e"], scale: float) -> UInt8[np.ndarray, "m e"]:
    return (np.rint(centred * np.float32(scale)).clip(-127, 127) + 128).astype(np.uint8)


def _decoded(codes: UInt8[np.ndarray, "m e"], scale: float) -> Float[np.ndarray, "m e"]:
    return (codes.astype(np.float32) - 128) / np.float32(scale)
