"""The body of a form that a browser sends, multipart/form-data (RFC 7578), read strictly and within bounds."""

import dataclasses
import re

MOST_PARTS = 2000  # a CT series has up to a thousand files
LONGEST_HEAD = 4096  # bytes of the headers of a part
BOUNDARY = re.compile(r"multipart/form-data;\s*boundary=\"?([0-9A-Za-z'()+_,./:=?-]{1,70})\"?\s*", re.IGNORECASE)
DISPOSITION = re.compile(
    rb'content-disposition:\s*form-data;\s*name="([^"\r\n]{1,100})"(?:;\s*filename="([^"\r\n]*)")?\s*', re.IGNORECASE
)


class FormError(ValueError):
    """A body that no browser sends."""


@dataclasses.dataclass(frozen=True)
class Form:
    """The texts of a form by their names, and its files: the end of each name, and the bytes."""

    fields: dict[str, str]
    files: list[tuple[str, memoryview]]


def parse(content_type: str, body: bytes) -> Form:
    """The parts of a body; files are views of it, not copies.

    Raises:
        FormError: it is no multipart/form-data, or has too many parts.
    """
    match = BOUNDARY.fullmatch(content_type.strip())
    if match is None:
        raise FormError("no multipart/form-data")
    mark = b"--" + match[1].encode("ascii")
    if not body.startswith(mark + b"\r\n"):
        raise FormError("a body that does not begin with its boundary")
    fields: dict[str, str] = {}
    files: list[tuple[str, memoryview]] = []
    view, start = memoryview(body), len(mark) + 2
    while True:
        end = body.find(b"\r\n" + mark, start)
        if end < 0:
            raise FormError("a part without its end")
        name, filename, content = _part(view[start:end])
        if filename is None:
            fields[name] = bytes(content).decode("utf-8", "replace")
        elif len(content):
            files.append((filename, content))
        if len(fields) + len(files) > MOST_PARTS:
            raise FormError(f"more than {MOST_PARTS} parts")
        after = body[end + 2 + len(mark) : end + 4 + len(mark)]
        if after == b"--":
            return Form(fields, files)
        if after != b"\r\n":
            raise FormError("a boundary that goes on")
        start = end + 4 + len(mark)


def _part(part: memoryview) -> tuple[str, str | None, memoryview]:
    head, gap, _ = bytes(part[:LONGEST_HEAD]).partition(b"\r\n\r\n")
    if not gap:
        raise FormError("a part without its headers")
    names = [match for line in head.split(b"\r\n") if (match := DISPOSITION.fullmatch(line))]
    if len(names) != 1:
        raise FormError("a part without a name")
    name, filename = names[0].groups()
    decoded = None if filename is None else filename.decode("utf-8", "replace")
    return name.decode("utf-8", "replace"), decoded, part[len(head) + 4 :]
