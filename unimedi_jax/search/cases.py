"""The cases of an index: a line of JSON each, `cases.jsonl`."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from data import json_files

LONGEST_LINE = 1 << 20  # bytes of a case: a report has a few thousand
LONGEST_NAME = 1 << 12  # letters of an id
COLUMNS = ("id", "patient", "modality", "split")


@dataclasses.dataclass(frozen=True)
class Case:
    """An X-ray or CT with its report, or one of both."""

    id: str
    patient: str = ""  # "" where the source names none
    modality: str = ""  # "xray", "ct", or "report" of a report alone
    split: str = ""
    report: str = ""


def line(case: Case, *, keep_report: bool) -> str:
    """A case as a line."""
    content = dataclasses.asdict(case)
    return json_files.line(content if keep_report else {**content, "report": ""})


def read_line(text: bytes) -> Case:
    """The case of a line. Raises ValueError for what is none."""
    try:
        case = Case(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("a line that is no case") from error
    values = dataclasses.astuple(case)
    if not all(isinstance(value, str) for value in values) or max(map(len, values[:-1])) > LONGEST_NAME:
        raise ValueError("a case whose fields are no texts")
    return case


def columns(path: pathlib.Path) -> dict[str, np.ndarray]:
    """COLUMNS (n,) as text, and "start" (n,) int64: where the line of each case begins. Raises ValueError."""
    starts, cases = [], []
    for start, case in _lines(path):
        starts.append(start)
        cases.append([getattr(case, name) for name in COLUMNS])
    table = np.array(cases, object).reshape(-1, len(COLUMNS))
    return {"start": np.array(starts, np.int64), **dict(zip(COLUMNS, table.T, strict=True))}


def count_lines(path: pathlib.Path) -> int:
    """Whole lines of a file, which is cut behind the last of them; 0 where there is no file."""
    if not path.exists():
        return 0
    count = size = 0
    with path.open("r+b") as stream:
        for text in stream:
            if text.endswith(b"\n"):
                count, size = count + 1, size + len(text)
        stream.truncate(size)
    return count


def _lines(path: pathlib.Path) -> Iterator[tuple[int, Case]]:
    start = 0
    with path.open("rb") as stream:
        while text := stream.readline(LONGEST_LINE):
            yield start, read_line(text)
            start += len(text)
