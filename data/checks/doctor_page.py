"""The doctor's page: one HTML file that opens offline, runs no script and shows no report."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import pages, reasons
from data.checks import doctor, doctor_pictures
from data.readers import image_statistics
from data.source import Rejected, Source

TEMPLATE = Path(__file__).with_name("templates") / "doctor.html"
CARDS = 24
Card = tuple[bytes | None, str, str]  # a PNG, its title, the text under it


def write(workdir: Path, examination: Mapping[str, Any], source: Source, folder: Path | None) -> Path:
    """Writes `doctor.json` and `doctor.html` into `workdir` and returns the page's path.

    `folder` is what the source's paths are relative to; None: there are no files, and rejected rows have no pictures.
    """
    pages.write(workdir / "doctor.json", json.dumps(examination, indent=2, ensure_ascii=False) + "\n")
    return pages.write(workdir / "doctor.html", render(examination, source, folder))


def render(examination: Mapping[str, Any], source: Source, folder: Path | None) -> str:
    """The page as HTML text."""
    noted, same = examination["noted_rows"].items(), examination["duplicates"]
    in_two_splits = examination["duplicates_in_two_splits"]
    return pages.render(
        TEMPLATE,
        examination=examination,
        reasons=[(code, count, *reasons.REJECTED[code]) for code, count in examination["reasons"].items()],
        rejected=list(_rejected(examination["rejects"], folder)),
        unusual=list(_unusual(examination, source)),
        notes=[(code, len(rows), reasons.NOTES[code], doctor.few(rows)) for code, rows in noted],
        duplicates=[(", ".join(map(str, rows)), "yes" if rows in in_two_splits else "") for rows in same],
        measures=[(name, *quantiles.values()) for name, quantiles in examination["measures"].items()],
        reports=list(_reports(examination["reports"])),
    )


def _rejected(rejects: Sequence[Mapping[str, Any]], folder: Path | None) -> Iterator[Card]:
    """One row of each reason in turn, so that a common reason does not hide the others."""
    by_code: dict[str, list[Mapping[str, Any]]] = {}
    for row in rejects:
        by_code.setdefault(row["reason"].partition(":")[0], []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_code.values()))
    for row in itertools.islice(filter(None, turns), CARDS):
        code, _, detail = row["reason"].partition(":")
        picture = doctor_pictures.of_file(folder / row["path"], code) if folder and row["path"] else None
        yield picture, f"row {row['row']}: {code}", f"{row['path']} - {detail.strip()}"


def _unusual(examination: Mapping[str, Any], source: Source) -> Iterator[Card]:
    """Accepted rows that look suspicious, then those whose numbers lie far from the others'."""
    rows = {row.number: row for row in source.rows}
    suspicious = [
        (number, code, reasons.NOTES[code])
        for code, numbers in examination["noted_rows"].items()
        if code in image_statistics.SUSPICIONS
        for number in numbers
    ]
    outliers = [
        (one["row"], f"{one['measure']} {one['value']:g}", f"usually {one['median']:g}")
        for one in examination["outliers"]
    ]
    for number, title, text in (suspicious[: CARDS // 2] + outliers)[:CARDS]:
        example = source.convert(rows[number])  # once more: the examination keeps no pixels
        picture = None if isinstance(example, Rejected) else doctor_pictures.of_example(example)
        yield picture, f"row {number}: {title}", f"{rows[number].path} - {text}"


def _reports(facts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield "empty", facts["empty"]
    yield from ((f"language {name}", count) for name, count in facts["languages"].items())
    yield from ((f"with {name}", count) for name, count in facts["sections"].items())
    yield "tokens, median", facts["tokens"]["p50"]
    yield "tokens, maximum", facts["tokens"]["p100"]
    yield f"over {facts['token_limit']} tokens, cut", facts["longer_than_limit"]
    yield "with a repeated text", facts["rows_with_repeated_text"]
    for text in facts["most_repeated"]:
        yield f"one text, rows {', '.join(map(str, text['rows']))}", text["times"]
