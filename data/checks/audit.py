"""The audit job: searches a folder for every identifier and every long run of report text of a raw source.

Two places hold such things by contract: the records' `report` field holds report text and is searched for identifiers
only, unless `config.reports` asks for report text too. The reject ledger beside a set names the user's own paths:
only its reasons are searched; that in a set has hashes and is searched whole. What is passed over is counted.
"""

import collections
import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data import record_files
from data.build import contracts, dataset
from data.checks import audit_files, audit_names
from data.checks.audit_files import Passed
from data.errors import UserError
from data.manifest import table
from data.reports import text

RUN_WORDS = 8  # so many words in a row identify a report, fewer may be in any
# In compressed numbers, such as a checkpoint's, any four letters turn up by chance in every few tens of megabytes.
SURE_IN_BYTES = 6
TOO_SHORT = "identifiers too short to be distinguished from other text"
UNREADABLE = "files of the source that cannot be read, and what identifies a patient in them"
Needles = dict[tuple[str, ...], str]  # words that must not occur in this order -> what they are, for the message


def run(config: Any, _: Path | None = None) -> None:
    """Prints where something was found, but not the text. Raises UserError if anything was."""
    if not config.path or not config.source:
        raise UserError("config.path and config.source are both needed: the folder, and the CSV it was made of")
    folder, source = (Path(value).expanduser() for value in (config.path, config.source))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    names, runs, left_out = needles(source)
    passed: Passed = collections.Counter()
    findings = list(search(folder, names, runs, passed, reports=config.reports))
    print(f"searched {folder} for {len(names)} identifiers and {len(runs)} runs of {RUN_WORDS} words of {source}")
    for what, count in sorted(left_out.items()):
        print(f"not searched for: {count} {what}")
    if vague := len(names) - len(_sure(names)):
        print(f"searched for in texts only: {vague} identifiers of fewer than {SURE_IN_BYTES} letters")
    for what, count in sorted(passed.items()):
        print(f"passed over: {count} {what}")
    print("passed over: pixels and voxels, in which words may be written")
    for place, what in findings:
        print(f"found: {what} in {place}")
    if findings:
        where = f"{folder} holds identifiers or report text in {len(findings)} places"
        raise UserError(f"{where}: do not pass it on before they are removed")
    print("nothing found in what was searched")


def needles(source: Path) -> tuple[Needles, Needles, Passed]:
    """Identifiers and runs of words of a manifest and its files, and how much of what is not searched for."""
    header, rows = table.read(source)
    names: Needles = {}
    runs: Needles = {}
    short = set()
    unreadable = 0
    for number, fields in rows:
        row = dict(zip(header, (field.strip() for field in fields), strict=False))
        patient = table.name(row.get("patient", ""))
        patients = {row["patient"], patient} if patient else ()  # as written, and as a set stores it
        of_file, failed = audit_names.of_file(source.parent, row.get("path", ""))
        unreadable += failed
        for kind, value in (*(("the patient", name) for name in patients), *of_file):
            words = fold(value)
            if audit_names.is_identifying(" ".join(words)):
                names.setdefault(words, f"{kind} of row {number}")
            elif words:
                short.add(words)
        words = fold(row.get("report", ""))
        for start in range(0, len(words) - RUN_WORDS + 1, RUN_WORDS // 2):
            runs.setdefault(words[start : start + RUN_WORDS], f"the report of row {number}")
    left_out = collections.Counter({TOO_SHORT: len(short), UNREADABLE: unreadable})
    return names, runs, +left_out


def fold(value: str) -> tuple[str, ...]:
    """Words in lower case, without line breaks, quotes, punctuation and markup between them."""
    return tuple(re.findall(r"[^\W_]+", text.clean(value).lower()))


def search(
    folder: Path, names: Needles, runs: Needles, passed: Passed | None = None, *, reports: bool = False
) -> Iterator[tuple[str, str]]:
    """Where something was found and what it is, once a kind and file; `passed` counts what was not searched.

    With `reports` the records' `report` fields are searched for the runs of words too.
    """
    passed = collections.Counter() if passed is None else passed
    every, sure, long = _Index(names), _Index(_sure(names)), _Index(runs)
    parts = [info.parent for one in sorted(folder.rglob(contracts.FILE)) for info in _infos(one.parent)]
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            passed["symbolic links, which are not followed"] += 1
        if path.is_symlink() or not path.is_file():
            continue
        place = str(path.relative_to(folder))
        yield from _once(place, [path.name], every)
        if path.name.endswith(f".{dataset.LEDGER}"):
            yield from _once(place, _reasons(path), every, long)
            passed[f"paths of the source in {place}: do not pass this list of rejected rows on"] += 1
        elif "array_record" in path.name:
            passed["files of records that belong to no built set"] += path.parent not in parts
        else:
            with path.open("rb") as stream:
                hits = (
                    hit
                    for pieces, is_text in audit_files.texts(stream, passed)
                    for hit in _once(place, map(_unescaped, pieces), every if is_text else sure, long)
                )
                yield from dict.fromkeys(hits)  # one text may match in two encodings
    for place, name, value in (field for part in parts for field in _fields(part, folder)):
        whole = reports or name != "report"
        passed["report fields of records, but for identifiers: config.reports=True searches them"] += not whole
        yield from _once(place, [value], *((every, long) if whole else (every,)))
    for what in [what for what, count in passed.items() if not count]:
        del passed[what]


def _reasons(ledger: Path) -> Iterator[str]:
    """The reasons of a list of rejected rows, each with a line's end; the whole of a line that is none."""
    with ledger.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield f"{json.loads(line)['reason']}\n"
            except (ValueError, KeyError, TypeError, RecursionError):
                yield line


def _infos(set_folder: Path) -> list[Path]:
    """What describes the records of each modality of a built set."""
    return sorted(set_folder.glob("*/*/features.json"))


def _fields(part: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Where it is, name and value of every field of text in the records of a modality."""
    stored = record_files.read(part, folder)
    schema = stored.schema(stored.texts)
    for split in stored.splits:
        for number, raw in enumerate(stored.raw(split)):
            place = f"{part.relative_to(folder)} {split}, record {number}"
            try:
                record = record_files.decode(schema, raw)
            except ValueError as error:
                raise UserError(f"{place} cannot be searched: {error}") from error
            for name, value in record.items():
                if value:
                    yield f"{place}, field {name}", name, value.decode()


class _Index:
    """Needles by their first words."""

    def __init__(self, needles_of_kind: Needles) -> None:
        self._needles = needles_of_kind
        self._lengths: dict[str, set[int]] = {}
        for needle in needles_of_kind:
            self._lengths.setdefault(needle[0], set()).add(len(needle))
        self.longest = max(map(len, needles_of_kind), default=0)

    def matches(self, words: tuple[str, ...]) -> Iterator[str]:
        """What lies in these words."""
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                if what := self._needles.get(words[start : start + length]):
                    yield what


def _once(place: str, pieces: Iterable[str], *indices: _Index) -> Iterator[tuple[str, str]]:
    """What lies in a text that comes in pieces, cut between words: each thing once."""
    overlap = max((index.longest for index in indices), default=1) - 1
    reported: set[str] = set()
    last: tuple[str, ...] = ()  # words of the piece before: a needle may lie across the cut
    for piece in pieces:
        words = last + fold(piece)
        for what in (what for index in indices for what in index.matches(words)):
            if what not in reported:
                reported.add(what)
                yield place, what
        last = words[max(len(words) - overlap, 0) :]


def _sure(names: Needles) -> Needles:
    """The identifiers that do not turn up in arbitrary bytes by chance."""
    return {words: what for words, what in names.items() if sum(map(len, words)) >= SURE_IN_BYTES}


def _unescaped(content: str) -> str:
    """JSON's and HTML's ways to write a letter, undone."""
    content = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), content)
    return html.unescape(re.sub(r"\\[nrt]", " ", content))
