"""The audit job: searches a folder for every identifier and every long run of report text of a raw source.

Two places hold such things by contract: the records' `report` field holds report text and is searched for identifiers
only, and of the reject ledger, which names the user's own paths, only the reasons are searched.
"""

import contextlib
import gzip
import html
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data.build import contracts, dataset
from data.checks import audit_names
from data.errors import UserError
from data.manifest import table
from data.reports import text

RUN_WORDS = 8  # so many words in a row identify a report, fewer may be in any
MAX_MEMBER = 1 << 30
# In compressed numbers, such as a checkpoint's, any four letters turn up by chance in every few tens of megabytes.
SURE_IN_BYTES = 6
Needles = dict[tuple[str, ...], str]  # words that must not occur in this order -> what they are, for the message


def run(config: Any, _: Path | None = None) -> None:
    """Prints where something was found, but not the text. Raises UserError if anything was."""
    if not config.path or not config.source:
        raise UserError("config.path and config.source are both needed: the folder, and the CSV it was made of")
    folder, source = (Path(value).expanduser() for value in (config.path, config.source))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    names, runs, short = needles(source)
    findings = list(search(folder, names, runs))
    print(f"searched {folder} for {len(names)} identifiers and {len(runs)} runs of {RUN_WORDS} words of {source}")
    if short:
        print(f"not searched for: {short} identifiers too short to be distinguished from other text")
    if vague := len(names) - len(_sure(names)):
        print(f"searched for in texts only: {vague} identifiers of fewer than {SURE_IN_BYTES} letters")
    for place, what in findings:
        print(f"found: {what} in {place}")
    if findings:
        raise UserError(f"{len(findings)} findings in {folder}: do not pass it on, remove what holds them")
    print("nothing found")


def needles(source: Path) -> tuple[Needles, Needles, int]:
    """Identifiers and runs of words of a manifest and its files, and how many identifiers are too short to search."""
    header, rows = table.read(source)
    names: Needles = {}
    runs: Needles = {}
    short = set()
    for number, fields in rows:
        row = dict(zip(header, fields, strict=False))
        patients = {row.get("patient", ""), table.whole(row.get("patient", ""))}  # as written, and as a set stores it
        of_file = audit_names.of_file(source.parent, row.get("path", ""))
        for kind, value in (*(("the patient", name) for name in patients), *of_file):
            words = fold(value)
            if audit_names.is_identifying(" ".join(words)):
                names.setdefault(words, f"{kind} of row {number}")
            elif words:
                short.add(words)
        words = fold(row.get("report", ""))
        for start in range(0, len(words) - RUN_WORDS + 1, RUN_WORDS // 2):
            runs.setdefault(words[start : start + RUN_WORDS], f"the report of row {number}")
    return names, runs, len(short)


def fold(value: str) -> tuple[str, ...]:
    """Words in lower case, without line breaks, quotes, punctuation and markup between them."""
    return tuple(re.findall(r"[^\W_]+", text.clean(value).lower()))


def search(folder: Path, names: Needles, runs: Needles) -> Iterator[tuple[str, str]]:
    """Where something was found and what it is, once a kind and file."""
    sure = _sure(names)
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        place = str(path.relative_to(folder))
        yield from _once(place, fold(path.name), names, {})
        if path.name.endswith(dataset.LEDGER):
            reasons = [json.loads(line).get("reason", "") for line in path.read_text(encoding="utf-8").splitlines()]
            yield from _once(place, fold("\n".join(reasons)), names, runs)
        elif "array_record" not in path.name:
            hits = (
                hit
                for words, is_text in _readings(path.read_bytes())
                for hit in _once(place, words, names if is_text else sure, runs)
            )
            yield from dict.fromkeys(hits)  # one text may match in two encodings
    for contract in sorted(folder.rglob(contracts.FILE)):
        yield from _in_records(contract.parent, folder, names, runs)


def _in_records(set_folder: Path, folder: Path, names: Needles, runs: Needles) -> Iterator[tuple[str, str]]:
    for info in sorted(set_folder.glob("*/*/features.json")):
        builder = tfds.builder_from_directory(info.parent)
        for split in builder.info.splits:
            place = f"{info.parent.relative_to(folder)} {split}"
            for number, record in enumerate(builder.as_data_source(split)):
                for name, value in record.items():
                    if isinstance(value, bytes):
                        where = f"{place}, record {number}, field {name}"
                        yield from _once(where, fold(value.decode()), names, {} if name == "report" else runs)


def _once(place: str, words: tuple[str, ...], names: Needles, runs: Needles) -> Iterator[tuple[str, str]]:
    for needles_of_kind in (names, runs):
        spans = (
            words[start : start + length]
            for length in {len(needle) for needle in needles_of_kind}
            for start in range(len(words) - length + 1)
        )
        yield from ((place, what) for what in dict.fromkeys(map(needles_of_kind.get, spans)) if what)


def _sure(names: Needles) -> Needles:
    """The identifiers that do not turn up in arbitrary bytes by chance."""
    return {words: what for words, what in names.items() if sum(map(len, words)) >= SURE_IN_BYTES}


def _readings(data: bytes, depth: int = 2) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The words of a file in the usual encodings, and whether it is text at all; escapes undone, archives opened."""
    decoded = data.decode("utf-8", errors="replace")
    is_text = "\ufffd" not in decoded and "\0" not in decoded
    yield fold(_unescaped(decoded)), is_text
    if b"\0" in data:
        marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        for start in (0, 1):
            yield fold(data[start:].decode("utf-16-le", errors="replace")), marked
    if depth and data[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError), gzip.open(io.BytesIO(data)) as stream:
            yield from _readings(stream.read(MAX_MEMBER), depth - 1)
    if depth and data[:4] == b"PK\x03\x04":
        # RuntimeError: a member with a password, or in a coding that is not known.
        with contextlib.suppress(zipfile.BadZipFile, RuntimeError), zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.file_size <= MAX_MEMBER:
                    yield from _readings(archive.read(member), depth - 1)


def _unescaped(content: str) -> str:
    """JSON's and HTML's ways to write a letter, undone."""
    content = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), content)
    return html.unescape(re.sub(r"\\[nrt]", " ", content))
