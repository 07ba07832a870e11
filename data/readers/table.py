"""Reads CSV and TSV: the user's own as spreadsheets write them, strictly, and published ones as they come."""

import csv
import gzip
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError
from data.readers.files import LFS_MAGIC

LOG = logging.getLogger(__name__)


def read_spreadsheet(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a user's CSV, blank lines dropped.

    The most frequent of `,`, `;` and tab in the first line is the delimiter. UTF-8 with or without a byte-order mark,
    UTF-16 with one, else Windows-1252. Raises UserError for a file that cannot be read or is no valid CSV.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}") from error
    if content.startswith(LFS_MAGIC):
        raise UserError(f"{path} is a Git LFS pointer: run `git lfs pull` where it comes from")
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        LOG.warning("%s is not UTF-8: read as Windows-1252, %d bytes unknown", path, text.count("\ufffd"))
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [fields for fields in lines if fields]
    except csv.Error as error:
        raise UserError(
            f"{path} is not valid CSV at line {lines.line_num}: {error}. Fields with quotes, line breaks or "
            f"'{delimiter}' in them must stand in double quotes, quotes inside doubled"
        ) from error
    return (rows[0], rows[1:]) if rows else ([], [])


def read_published(path: Path, required: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The required columns of a published CSV or TSV, gzipped or not, without blanks around names and values.

    Raises UserError for a file that cannot be read or lacks one of them.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): copy or download it again") from error
    text = content.decode("utf-8-sig", errors="replace")
    if unknown := text.count("\ufffd"):
        LOG.warning("%s is not UTF-8 throughout: %d letters unknown", path, unknown)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if missing := [name for name in required if name not in header]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header[:20])}")
        places = [(name, header.index(name)) for name in required]
        return [{name: fields[at].strip() for name, at in places} for fields in lines if fields]
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV at line {lines.line_num}: {error}") from error
    except IndexError as error:
        raise UserError(f"{path} has too few fields in line {lines.line_num}: download it again") from error
