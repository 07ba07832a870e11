"""The texts of a file, whatever it is: the usual encodings, archives opened. What cannot be opened is counted."""

import bz2
import collections
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

MAX_MEMBER = 1 << 30
OPENERS: dict[bytes, Callable[..., IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
SEALED = {b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf": "7z", b"Rar!": "RAR"}
ZIP = b"PK\x03\x04"
Passed = collections.Counter[str]  # what was not searched -> how often
Text = tuple[str, bool]  # and whether the file is text at all


def texts(data: bytes, passed: Passed, depth: int = 2) -> Iterator[Text]:
    """The content of a file as text, as it lies and, of an archive, what is in it, at most `depth` archives deep."""
    decoded = data.decode("utf-8", errors="replace")
    yield decoded, "\ufffd" not in decoded and "\0" not in decoded
    if b"\0" in data:
        marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        for start in (0, 1):
            yield data[start:].decode("utf-16-le", errors="replace"), marked
    if packing := SEALED.get(data[:4]):
        passed[f"files packed by {packing}"] += 1
    opener = next((opener for start, opener in OPENERS.items() if data.startswith(start)), None)
    if (opener or data.startswith(ZIP)) and not depth:
        passed["archives inside archives inside archives"] += 1
    elif opener:
        yield from _unpacked(data, opener, passed, depth)
    elif data.startswith(ZIP):
        yield from _members(data, passed, depth)


def _unpacked(data: bytes, opener: Callable[..., IO[bytes]], passed: Passed, depth: int) -> Iterator[Text]:
    try:
        with opener(io.BytesIO(data)) as stream:
            content, rest = stream.read(MAX_MEMBER), stream.read(1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        passed["packed files that are damaged"] += 1
        return
    passed["ends of packed files, above 1 GiB"] += bool(rest)
    yield from texts(content, passed, depth - 1)


def _members(data: bytes, passed: Passed, depth: int) -> Iterator[Text]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        passed["packed files that are damaged"] += 1
        return
    with archive:
        for member in archive.infolist():
            if member.file_size > MAX_MEMBER:
                passed["members of archives, above 1 GiB"] += 1
                continue
            try:
                content = archive.read(member)
            except (RuntimeError, zipfile.BadZipFile, zlib.error, EOFError):
                passed["members of archives with a password, of unknown coding or damaged"] += 1
                continue
            yield from texts(content, passed, depth - 1)
