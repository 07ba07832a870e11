"""Reads the CSV of a manifest, strictly: encodings and delimiters of spreadsheets, no guesses about content."""

import collections
import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from data import errors
from data.readers.files import LFS_MAGIC

LABEL = "label:"
LOG = logging.getLogger(__name__)


def read(manifest: Path, required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], Iterator]:
    """The header's columns and the numbered data rows (number, fields); blank lines count for nothing.

    Raises UserError for a file that cannot be read, is no valid CSV or lacks a required column.
    """
    content = _text(manifest)
    first = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [fields for fields in lines if fields]
    except csv.Error as error:
        raise errors.UserError(
            f"{manifest} is not valid CSV at line {lines.line_num}: {error}. Fields with quotes, line breaks or "
            f"'{delimiter}' in them must stand in double quotes, quotes inside doubled"
        ) from error
    header = [_column(name) for name in rows[0]] if rows else []
    missing = [name for name in required if name not in header]
    if missing:
        raise errors.UserError(
            f"{manifest} lacks the columns {', '.join(missing)} in its first line: it needs "
            f"{', '.join(required)}, and may have {', '.join(optional)} and {LABEL}<name>"
        )
    twice = [name for name, count in collections.Counter(header).items() if count > 1 and name]
    if twice:
        raise errors.UserError(f"{manifest} has the columns {', '.join(twice)} more than once")
    if LABEL in header:
        raise errors.UserError(f"{manifest} has a column '{LABEL}' without a label's name")
    unused = [name for name in header if name not in (*required, *optional) and not name.startswith(LABEL)]
    if unused:
        LOG.warning("columns of %s that are not used: %s", manifest, ", ".join(unused))
    return header, enumerate(rows[1:], start=1)


def _text(manifest: Path) -> str:
    """The CSV's text: UTF-8, with or without a byte-order mark, or else Windows-1252, as spreadsheets write it."""
    try:
        data = manifest.read_bytes()
    except OSError as error:
        raise errors.UserError(f"cannot read the manifest {manifest}: {error.strerror}") from error
    if data.startswith(LFS_MAGIC):
        raise errors.UserError(f"{manifest} is a Git LFS pointer: run `git lfs pull` where it comes from")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        LOG.warning("%s is not UTF-8: read as Windows-1252, %d bytes unknown", manifest, text.count("\ufffd"))
        return text


def _column(name: str) -> str:
    """A column's name as this code knows it: labels keep their case."""
    name = name.strip()
    head, colon, label = name.partition(":")
    return f"{head.strip().lower()}{colon}{label.strip()}" if colon else name.lower()
