"""The texts of a file, whatever it is: the usual encodings, archives opened. What cannot be opened is counted.

A text comes in pieces, since a checkpoint or a copy of one may be larger than memory.
"""

import bz2
import codecs
import collections
import gzip
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

BLOCK = 1 << 20  # bytes that are decoded at a time
LONGEST = 8  # blocks without an end of a word, after which one is cut all the same
MAX_MEMBER = 1 << 30
# No word, escape or composed letter goes on across one of these.
ENDS = " \n\t\f\",:{}()[]/|!?*+.'-"
OPENERS: dict[bytes, Callable[..., IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
SEALED = {b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf": "7z", b"Rar!": "RAR"}
ZIP = b"PK\x03\x04"
# What the openers raise of damage, a password or an unknown coding.
DAMAGE = (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
Passed = collections.Counter[str]  # what was not searched -> how often
Text = tuple[Iterator[str], bool]  # its pieces, to be read before the next text, and whether the file is text at all


def texts(stream: IO[bytes], passed: Passed, depth: int = 2) -> Iterator[Text]:
    """The content of a file as text, as it lies and, of an archive, what is in it, at most `depth` archives deep.

    `stream` is at any place, and can be moved.
    """
    stream.seek(0)
    start = stream.read(6)
    is_text, has_zeros = _kind(stream)
    yield _pieces(_decoded(stream, "utf-8", 0)), is_text
    if has_zeros:
        for skipped in (0, 1):
            yield _pieces(_decoded(stream, "utf-16-le", skipped)), start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if packing := SEALED.get(start[:4]):
        passed[f"files packed by {packing}"] += 1
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    if (opener or start.startswith(ZIP)) and not depth:
        passed["archives inside archives inside archives"] += 1
    elif opener:
        yield from _unpacked(stream, opener, passed, depth)
    elif start.startswith(ZIP):
        yield from _members(stream, passed, depth)


def _kind(stream: IO[bytes]) -> tuple[bool, bool]:
    """Whether a file is UTF-8 without zeros, and whether it has zeros."""
    stream.seek(0)
    decoder, is_text = codecs.getincrementaldecoder("utf-8")("replace"), True
    while block := stream.read(BLOCK):
        if b"\0" in block:
            return False, True
        is_text = is_text and "\ufffd" not in decoder.decode(block)
    return is_text and not decoder.decode(b"", final=True), False


def _decoded(stream: IO[bytes], encoding: str, skipped: int) -> Iterator[str]:
    stream.seek(skipped)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while block := stream.read(BLOCK):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _pieces(blocks: Iterator[str]) -> Iterator[str]:
    """The same text, cut where a word ends."""
    rest = ""
    for block in blocks:
        rest += block
        cut = max(map(rest.rfind, ENDS)) + 1
        if not cut and len(rest) >= LONGEST * BLOCK:
            cut = len(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def _unpacked(stream: IO[bytes], opener: Callable[..., IO[bytes]], passed: Passed, depth: int) -> Iterator[Text]:
    stream.seek(0)
    with tempfile.SpooledTemporaryFile(BLOCK) as content:
        try:
            with opener(stream) as packed:
                rest = _copy(packed, content)
        except DAMAGE as error:
            _check_disk(error)
            passed["packed files that are damaged"] += 1
            return
        passed["ends of packed files, above 1 GiB"] += rest
        yield from texts(content, passed, depth - 1)


def _copy(packed: IO[bytes], target: IO[bytes]) -> bool:
    """Copies at most MAX_MEMBER bytes; whether there are more."""
    left = MAX_MEMBER
    while left and (block := packed.read(min(BLOCK, left))):
        target.write(block)
        left -= len(block)
    return bool(packed.read(1))


def _check_disk(error: Exception) -> None:
    """Raises what the disk says, and not the opener."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _members(stream: IO[bytes], passed: Passed, depth: int) -> Iterator[Text]:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        passed["packed files that are damaged"] += 1
        return
    with archive:
        for member in archive.infolist():
            if member.file_size > MAX_MEMBER:
                passed["members of archives, above 1 GiB"] += 1
                continue
            with tempfile.SpooledTemporaryFile(BLOCK) as content:
                try:
                    with archive.open(member) as packed:
                        shutil.copyfileobj(packed, content, BLOCK)
                except DAMAGE as error:
                    _check_disk(error)
                    passed["members of archives with a password, of unknown coding or damaged"] += 1
                    continue
                yield from texts(content, passed, depth - 1)
