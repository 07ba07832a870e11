"""The audit job: searches a folder for every identifier and every long run of report text of a raw source.

Two places hold such things by contract: the records' `report` field holds report text and is searched for identifiers
only, unless `config.reports` asks for report text too. The reject ledger beside a set names the user's own paths:
only its reasons are searched; that in a set has hashes and is searched whole. What is passed over is counted.
"""

import collections
import html
import json
import re
from collections.abc import Iterator
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
Needles = dict[tuple[str, ...], str]  # words that must not occur in this order -> what they are, for the message


def run(config: Any, _: Path | None = None) -> None:
    """Prints where something was found, but not the text. Raises UserError if anything was."""
    if not config.path or not config.source:
        raise UserError("config.path and config.source are both needed: the folder, and the CSV it was made of")
    folder, source = (Path(value).expanduser() for value in (config.path, config.source))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    names, runs, short = needles(source)
    passed: Passed = collections.Counter()
    findings = list(search(folder, names, runs, passed, reports=config.reports))
    print(f"searched {folder} for {len(names)} identifiers and {len(runs)} runs of {RUN_WORDS} words of {source}")
    if short:
        print(f"not searched for: {short} identifiers too short to be distinguished from other text")
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


def needles(source: Path) -> tuple[Needles, Needles, int]:
    """Identifiers and runs of words of a manifest and its files, and how many identifiers are too short to search."""
    header, rows = table.read(source)
    names: Needles = {}
    runs: Needles = {}
    short = set()
    for number, fields in rows:
        row = dict(zip(header, fields, strict=False))
        patient = table.name(row.get("patient", ""))
        patients = {row["patient"], patient} if patient else ()  # as written, and as a set stores it
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


def search(
    folder: Path, names: Needles, runs: Needles, passed: Passed | None = None, *, reports: bool = False
) -> Iterator[tuple[str, str]]:
    """Where something was found and what it is, once a kind and file; `passed` counts what was not searched.

    With `reports` the records' `report` fields are searched for the runs of words too.
    """
    sure, passed = _sure(names), collections.Counter() if passed is None else passed
    parts = [info.parent for one in sorted(folder.rglob(contracts.FILE)) for info in _infos(one.parent)]
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            passed["symbolic links, which are not followed"] += 1
        if path.is_symlink() or not path.is_file():
            continue
        place = str(path.relative_to(folder))
        yield from _once(place, fold(path.name), names, {})
        if path.name.endswith(f".{dataset.LEDGER}"):
            yield from _once(place, fold(_reasons(path)), names, runs)
            passed[f"paths of the source in {place}: do not pass this list of rejected rows on"] += 1
        elif "array_record" in path.name:
            passed["files of records that belong to no built set"] += path.parent not in parts
        else:
            hits = (
                hit
                for content, is_text in audit_files.texts(path.read_bytes(), passed)
                for words in (fold(_unescaped(content)),)
                for hit in _once(place, words, names if is_text else sure, runs)
            )
            yield from dict.fromkeys(hits)  # one text may match in two encodings
    for place, name, value in (field for part in parts for field in _fields(part, folder)):
        whole = reports or name != "report"
        passed["report fields of records, but for identifiers: config.reports=True searches them"] += not whole
        yield from _once(place, fold(value), names, runs if whole else {})
    for what in [what for what, count in passed.items() if not count]:
        del passed[what]


def _reasons(ledger: Path) -> str:
    """The reasons of a list of rejected rows; the whole of a line that is none."""
    reasons = []
    for line in ledger.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            reasons.append(str(json.loads(line)["reason"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            reasons.append(line)
    return "\n".join(reasons)


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


def _unescaped(content: str) -> str:
    """JSON's and HTML's ways to write a letter, undone."""
    content = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), content)
    return html.unescape(re.sub(r"\\[nrt]", " ", content))
