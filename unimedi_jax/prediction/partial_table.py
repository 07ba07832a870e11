"""The rows of a table while they are computed, as lines of JSON on the disk: a kill or a full disk loses none there.

The first line is the hash of what they belong to. A kill can only cut the last line, which is dropped.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data import json_files
from unimedi_jax import fingerprint

Row = dict[str, Any]


class PartialTable:
    """Rows by the index of their item, as they were added by this start of a job and by those before it."""

    def __init__(self, path: pathlib.Path, source: Any) -> None:
        """Opens `path`; rows of another `source` (whatever names weights, settings and files, as JSON) are removed."""
        self._path = path
        mark = f"{fingerprint.facts(source)}\n".encode()
        with path.open("ab+") as stream:
            stream.seek(0)
            if stream.readline() != mark:
                stream.truncate(0)
                stream.write(mark)
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)

    def read(self) -> dict[int, list[Row]]:
        """Every row: those of an item together, by its index."""
        return dict(json.loads(line) for line in self._path.read_bytes().splitlines()[1:])

    def add(self, rows: Mapping[int, Sequence[Row]]) -> None:
        """Appends the rows of items; their values are text and numbers."""
        lines = "".join(json_files.line([index, some]) for index, some in rows.items())
        with self._path.open("ab", buffering=0) as stream:
            stream.write(lines.encode())

    def remove(self) -> None:
        """Deletes the file: its rows are elsewhere now."""
        self._path.unlink()
