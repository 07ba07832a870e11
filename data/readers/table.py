"""Reads CSV and TSV: the user's own as spreadsheets write them, strictly, and published ones as they come."""

import csv
import dataclasses
import gzip
import io
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.readers.files import LFS_MAGIC

LOG = logging.getLogger(__name__)
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
DELIMITERS = "".join(DELIMITER_NAMES)
SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's own first line: it names the delimiter
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
LONGEST_CELL = 1 << 30  # characters; the csv module refuses a whole table for one cell above 131,072
csv.field_size_limit(LONGEST_CELL)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a user's CSV below its header, read anew whenever they are asked for: never all in memory."""

    path: Path
    encoding: str
    errors: str
    delimiter: str
    hinted: bool  # a first line names the delimiter
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[str]]:
        return itertools.islice(self._lines(), 1, None)

    def _lines(self) -> Iterator[list[str]]:
        try:
            with self.path.open(encoding=self.encoding, errors=self.errors, newline="") as stream:
                if self.hinted:
                    while (line := stream.readline()) and not line.endswith("\n"):
                        pass
                lines = csv.reader(stream, delimiter=self.delimiter, strict=True)
                try:
                    yield from _filled(lines)
                except csv.Error as error:
                    raise UserError(
                        f"{self.path} is not valid CSV at line {lines.line_num + self.hinted}: {error}. Fields with "
                        f"quotes, line breaks or '{self.delimiter}' in them must be in double quotes, quotes "
                        "inside doubled"
                    ) from error
        except OSError as error:
            raise UserError(f"cannot read the manifest {self.path}: {error.strerror}") from error


def read_spreadsheet(path: Path) -> tuple[list[str], Rows]:
    """The header and the rows of a user's CSV; lines that are blank, or delimiters alone, are dropped.

    The delimiter is that of a first line `sep=;`, else the most frequent of `,`, `;`, tab and `|` in the header. UTF-8
    with or without a byte-order mark, UTF-16 with one, else Windows-1252. A wrong byte in a file that is otherwise
    UTF-8 stays in its cell (`is_damaged`), so that it costs its row alone. Raises UserError for a file that cannot be
    read or is no valid CSV.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}") from error
    if content.startswith(LFS_MAGIC):
        raise UserError(f"{path} is a Git LFS pointer: run `git lfs pull` where it comes from")
    encoding, errors = _encoding(content, path)
    whole = content.decode(encoding, errors)
    first = whole[: whole.find("\n")] if "\n" in whole else whole
    hint = SEPARATOR.fullmatch(first.strip("\r\n "))
    delimiter = hint[1] if hint else max(DELIMITERS, key=first.count)
    del content, whole  # as large as the file, each
    rows = Rows(path, encoding, errors, delimiter, bool(hint), 0)
    lines = rows._lines()
    header = next(lines, [])
    count = sum(1 for _ in lines)
    if any(map(is_damaged, header)):
        raise UserError(f"{path} has bytes in its first line that are not UTF-8: save it as CSV in UTF-8")
    return header, dataclasses.replace(rows, count=count)


def is_damaged(cell: str) -> bool:
    """Whether a cell of `read_spreadsheet` holds bytes that are not UTF-8, in a file that is otherwise."""
    return NOT_UTF8.search(cell) is not None


def readable(cell: str) -> str:
    """The cell with a mark in place of each byte that is not UTF-8: it can be printed and stored."""
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_published(path: Path, required: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The required columns of a published CSV or TSV, gzipped or not, without blanks around names and values.

    A wrong byte in a file that is otherwise UTF-8 becomes U+FFFD; a file that is not UTF-8 is read as Windows-1252.
    Raises UserError for a file that cannot be read or lacks a column.
    """
    return read_columns(path, required, delimiter)[1]


def read_columns(
    path: Path, required: Sequence[str], delimiter: str = ",", optional: Sequence[str] = ()
) -> tuple[list[str], list[dict[str, str]]]:
    """The header and what `read_published` gives; `optional` columns are read where the table has them."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): copy or download it again") from error
    if content.startswith(LFS_MAGIC):
        raise UserError(f"{path} is a Git LFS pointer: run `git lfs pull` where it comes from")
    text = decoded(content, path)
    if unknown := NOT_UTF8.findall(text):
        LOG.warning("%s is not UTF-8 throughout: %d letters unknown", path, len(unknown))
        text = readable(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if missing := [name for name in required if name not in header]:
            raise UserError(_lacking(path, missing, header, delimiter))
        places = [(name, header.index(name)) for name in (*required, *optional) if name in header]
        return header, [{name: fields[at].strip() for name, at in places} for fields in _filled(lines)]
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV at line {lines.line_num}: {error}") from error
    except IndexError as error:
        raise UserError(f"{path} has too few fields in line {lines.line_num}: download it again") from error


def _lacking(path: Path, missing: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    """What is wrong with a first line that lacks columns. None of its words: they may be a patient's report."""
    other = max(DELIMITERS, key=lambda mark: sum(name.count(mark) for name in header))
    often = sum(name.count(other) for name in header) >= max(len(header), 1)
    hint = f"; it has more of {DELIMITER_NAMES[other]}, which may be what parts them" if often else ""
    return (
        f"{path} lacks the columns {', '.join(missing)}: its first line must name the columns, parted by "
        f"{DELIMITER_NAMES[delimiter]}, and names {len(header)}{hint}"
    )


def _filled(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows in which any cell holds something: spreadsheets end in rows of delimiters alone."""
    return (fields for fields in lines if any(field.strip() for field in fields))


def decoded(content: bytes, path: Path) -> str:
    """The text of a table, in which bytes that are not UTF-8 are lone surrogates, as `surrogateescape` gives them."""
    return content.decode(*_encoding(content, path))


def _encoding(content: bytes, path: Path) -> tuple[str, str]:
    """How a table is decoded: the encoding, and what becomes of bytes that are none of it. Raises UserError."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is UTF-16 that is cut short or damaged: save it as CSV in UTF-8") from error
        return "utf-16", "strict"
    start = content[:200]
    if 4 * start.count(0) > len(start):  # a stray NUL is a matter of its cell
        raise UserError(f"{path} looks like UTF-16 without a byte-order mark, or is not text: save it as CSV in UTF-8")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("utf-8-sig", errors="surrogateescape")
    else:
        return "utf-8-sig", "strict"
    damaged = len(NOT_UTF8.findall(text))
    if damaged <= len(BEYOND_ASCII.findall(text)) - damaged:
        return "utf-8-sig", "surrogateescape"
    # No more letters are UTF-8 than are not: a file of another encoding. By chance its accents are hardly ever UTF-8.
    unknown = content.decode("cp1252", errors="replace").count("\ufffd")
    LOG.warning("%s is not UTF-8: read as Windows-1252, %d bytes unknown", path, unknown)
    return "cp1252", "replace"
