"""The rows of a manifest, under a header that has been checked: no guesses about names or content."""

import collections
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data import progress, views
from data.errors import UserError
from data.readers import table
from data.reports import text

REQUIRED = ("path", "modality", "report", "patient")
OPTIONAL = ("split", "mask", "sha256", *views.COLUMNS)
LABEL = "label:"
WHOLE = re.compile(r"([+-]?\d+)[.,]00?")  # three zeros are thousands: 1,000
LOG = logging.getLogger(__name__)


def read(manifest: Path, required: Sequence[str] = REQUIRED) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header's columns and the data rows (number from 1, fields); blank lines are neither read nor counted.

    Raises UserError for a file that cannot be read, is no valid CSV or lacks a required column.
    """
    names, rows = table.read_spreadsheet(manifest)
    header = [_column(name) for name in names]
    missing = [name for name in required if name not in header]
    if missing:
        others = ", ".join(name for name in (*REQUIRED, *OPTIONAL) if name not in required)
        raise UserError(
            f"{manifest} lacks the columns {', '.join(missing)} in its first line: it needs "
            f"{', '.join(required)}, and may have {others} and {LABEL}<name>"
        )
    twice = [name for name, count in collections.Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{manifest} has the columns {', '.join(twice)} more than once")
    if LABEL in header:
        raise UserError(f"{manifest} has a column '{LABEL}' without a label's name")
    unused = [name for name in header if name not in (*REQUIRED, *OPTIONAL) and not name.startswith(LABEL)]
    if unused:
        LOG.warning("columns of %s that are not used: %s", manifest, ", ".join(unused))
    return header, _numbered(rows)


def _numbered(rows: table.Rows) -> Iterator[tuple[int, list[str]]]:
    with progress.shown(len(rows), "rows listed") as tick:
        for number, fields in enumerate(rows, start=1):
            yield number, fields
            tick(1)


def whole(value: str) -> str:
    """1.0 and 1,0 as 1, as spreadsheets and pandas write the whole numbers of labels and patients; else as it is."""
    match = WHOLE.fullmatch(value)
    return match[1] if match else value


def name(value: str) -> str:
    """A patient, study, series or view as its row names it; "" for a blank and for words such as `nan` and `N/A`."""
    cleaned = text.clean(value)
    return "" if text.is_nothing(cleaned) else whole(cleaned)


def _column(name: str) -> str:
    """A column's name in lower case, but for what follows a colon: labels keep their case."""
    head, colon, label = name.partition(":")
    return f"{head.strip().lower()}{colon}{label.strip()}"
