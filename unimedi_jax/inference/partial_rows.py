"""Embeddings while they are computed, as rows on the disk: a kill or a full disk loses none that is there.

A file of whole rows behind the hash of what they belong to. A kill can only cut the last row, which is dropped.
"""

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

MARK = 64  # letters of a SHA-256


class PartialRows:
    """Rows by the index of their item, as they were added by this start of a job and by those before it."""

    def __init__(self, path: pathlib.Path, source: str, dtypes: Mapping[str, np.dtype]) -> None:
        """Opens `path`; rows of another `source` (whatever names weights, settings and files) are removed.

        `dtypes`: dtype and shape of each field, as in a structured array.
        """
        self._path = path
        mark = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest().encode()
        self._dtype = np.dtype([("index", np.int64), *dtypes.items()])
        with path.open("ab+") as stream:
            stream.seek(0)
            if stream.read(MARK) != mark:
                stream.truncate(0)
                stream.write(mark)
            whole = (max(stream.seek(0, 2), MARK) - MARK) // self._dtype.itemsize
            stream.truncate(MARK + whole * self._dtype.itemsize)

    def read(self) -> np.ndarray:
        """Every row, structured (n,): "index" and the fields."""
        return np.fromfile(self._path, self._dtype, offset=MARK)

    def add(self, index: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
        """Appends rows: the indices of their items, and for each field an array of as many rows."""
        rows = np.zeros(len(index), self._dtype)
        rows["index"] = index
        for name, values in fields.items():
            rows[name] = values
        with self._path.open("ab", buffering=0) as stream:
            stream.write(rows.tobytes())

    def remove(self) -> None:
        """Deletes the file: its rows are elsewhere now."""
        self._path.unlink()
