"""The doctor's page: one HTML file that opens offline, runs no script and shows no report."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import reasons
from data.checks import doctor, doctor_pictures
from data.readers import image_statistics
from data.source import Rejected, Source

STYLE = Path(__file__).with_name("doctor.css")
CARDS = 24


def write(workdir: Path, found: Mapping[str, Any], source: Source, folder: Path | None) -> Path:
    """Writes `doctor.json` and `doctor.html` into `workdir` and returns the page's path.

    `folder` is what the source's paths are relative to; None: they lead nowhere, and rejects have no pictures.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    page = workdir / "doctor.html"
    _whole(workdir / "doctor.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    _whole(page, render(found, source, folder))
    return page


def render(found: Mapping[str, Any], source: Source, folder: Path | None) -> str:
    """The page as HTML text."""
    accepted = sum(sum(counts.values()) for counts in found["accepted"].values())
    body = [
        f"<h1>{found['rows']} rows: {accepted} accepted, {found['rejected']} rejected</h1>",
        '<p class="hint">The pictures on this page are of patients: handle the file as you handle the data.</p>',
        _section("Reasons of rejects", _table(_reason_rows(found["reasons"]), ("code", "rows", "meaning", "remedy"))),
        _section("Rejected", _cards(_rejected(found["rejects"], folder))),
        _section("Strangest accepted", _cards(_strangest(found, source))),
        _section("Notes", _table(_note_rows(found["noted_rows"]), ("note", "rows", "meaning", "which"))),
        _section("Same pixels twice", _table(_groups(found), ("rows", "in two splits"))),
        _section("Measures", _table(_measure_rows(found["measures"]), ("", "least", "1 %", "median", "99 %", "most"))),
        _section("Reports", _table(_report_rows(found["reports"]), ("", "rows or tokens"))),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Data doctor</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _rejected(rejects: Sequence[Mapping[str, Any]], folder: Path | None) -> Iterable[tuple[bytes | None, str, str]]:
    """Pictures and captions, each reason in turn so that a common one does not hide the others."""
    by_code: dict[str, list[Mapping[str, Any]]] = {}
    for one in rejects:
        by_code.setdefault(one["reason"].partition(":")[0], []).append(one)
    turns = max(map(len, by_code.values()), default=0)
    mixed = [group[turn] for turn in range(turns) for group in by_code.values() if turn < len(group)]
    for one in mixed[:CARDS]:
        code = one["reason"].partition(":")[0]
        picture = doctor_pictures.of_file(folder / one["path"], code) if folder and one["path"] else None
        yield picture, f"row {one['row']}: {code}", f"{one['path']} - {one['reason'].partition(':')[2].strip()}"


def _strangest(found: Mapping[str, Any], source: Source) -> Iterable[tuple[bytes | None, str, str]]:
    """Accepted cases that something speaks against, and those whose numbers lie far from the others'."""
    rows = {row.number: row for row in source.rows}
    suspect = [
        (number, code, reasons.NOTES[code])
        for code, numbers in found["noted_rows"].items()
        if code in image_statistics.SUSPICIONS
        for number in numbers
    ]
    far = [
        (one["row"], f"{one['measure']} {one['value']:g}", f"usually {one['median']:g}") for one in found["outliers"]
    ]
    for number, title, text in (suspect[: CARDS // 2] + far)[:CARDS]:
        example = source.convert(rows[number])  # read again: the pass over all kept no pixels
        picture = None if isinstance(example, Rejected) else doctor_pictures.of_example(example)
        yield picture, f"row {number}: {title}", f"{rows[number].path} - {text}"


def _note_rows(noted: Mapping[str, Sequence[int]]) -> Iterable[tuple[Any, ...]]:
    return ((code, len(numbers), reasons.NOTES[code], doctor.few(numbers)) for code, numbers in noted.items())


def _reason_rows(codes: Mapping[str, int]) -> Iterable[tuple[Any, ...]]:
    return ((code, count, *reasons.REJECTED[code]) for code, count in codes.items())


def _groups(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    leaked = found["duplicates_in_two_splits"]
    return ((", ".join(map(str, rows)), "yes" if rows in leaked else "") for rows in found["duplicates"])


def _measure_rows(measures: Mapping[str, Mapping[str, float]]) -> Iterable[tuple[Any, ...]]:
    return ((name, *quantiles.values()) for name, quantiles in measures.items())


def _report_rows(facts: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "empty", facts["empty"]
    yield from ((f"language {name}", count) for name, count in facts["languages"].items())
    yield from ((f"with {name}", count) for name, count in facts["sections"].items())
    yield "tokens, median", facts["tokens"]["p50"]
    yield "tokens, most", facts["tokens"]["p100"]
    yield f"over {facts['token_limit']} tokens, cut", facts["longer_than_limit"]
    yield "with a text that stands more than once", facts["rows_with_repeated_text"]
    for one in facts["most_repeated"]:
        yield f"one text, rows {', '.join(map(str, one['rows']))}", one["times"]


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body or '<p class=hint>None.</p>'}</section>"


def _table(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> str:
    rows = list(rows)
    lines = ["<tr>" + "".join(_field(value, "td") for value in row) + "</tr>" for row in rows]
    numbers = [isinstance(value, int | float) for value in rows[0]] if rows else []
    head = "".join(_field(name, "th", number) for name, number in zip(columns, numbers, strict=False))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>' if lines else ""


def _field(value: Any, tag: str, number: bool | None = None) -> str:
    kind = ' class="number"' if (isinstance(value, int | float) if number is None else number) else ""
    return f"<{tag}{kind}>{html.escape(f'{value:g}' if isinstance(value, float) else str(value))}</{tag}>"


def _cards(items: Iterable[tuple[bytes | None, str, str]]) -> str:
    figures = []
    for picture, title, text in items:
        shown = '<div class="empty">no picture</div>'
        if picture:
            shown = f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        figures.append(
            f"<figure>{shown}<figcaption><b>{html.escape(title)}</b>{html.escape(text)}</figcaption></figure>"
        )
    return f'<div class="cards">{"".join(figures)}</div>' if figures else ""


def _whole(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8", errors="replace")
    partial.replace(path)
