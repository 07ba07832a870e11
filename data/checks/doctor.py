"""Examines a source without building it: rejects, outliers, duplicates and reports, as one plain dict."""

import collections
import dataclasses
import hashlib
import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from data import progress, reasons
from data.build import build_statistics, pool
from data.readers import image_statistics
from data.reports import sections, text, tokenizer
from data.source import Rejected, Row, Source

FAR = 6.0  # robust standard deviations above which a row is an outlier
MIN_ROWS = 8  # fewer have no usual value
SHOWN = 20  # numbers of rows
EXAMPLES = 3  # rejected rows of each reason on the terminal
QUANTILES = (0, 1, 50, 99, 100)
MASKS = ("organ_mask", "lesion_mask")
BATCH = 1024  # reports that are tokenised at once: each takes ten kilobytes meanwhile


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the doctor remembers of an accepted row; its pixels are not."""

    row: Row
    measures: Mapping[str, float]


def examine(source: Source, converting: AbstractContextManager[pool.Convert], *, report_length: int) -> dict[str, Any]:
    """Converts every row and writes nothing: the content of `doctor.json`. `converting` is a `pool.converter`.

    The result holds row numbers, paths and codes, but no report text.
    """
    totals = build_statistics.BuildStatistics(list(source.rejected))
    measured: list[Measured] = []
    reports: list[tuple[int, str]] = []
    images: dict[bytes, Row] = {}
    same: dict[bytes, list[Row]] = {}  # of pictures that occur again
    noted: dict[str, list[int]] = collections.defaultdict(list)
    kilobytes, started = [0.0], time.monotonic()
    with converting as convert, progress.shown(len(source.rows), "rows") as tick:
        for row, result in convert(source.rows):
            tick(1)
            if isinstance(result, Rejected):
                totals.rejected.append(result)
                continue
            notes = result.pop("notes", ())
            totals.add(row.modality, row.split, result, notes)
            for code in notes:
                noted[code].append(row.number)
            measured.append(Measured(row, image_statistics.measure(result)))
            kilobytes.append(stored_bytes(result) / 1e3)
            if result["report"]:  # sets for evaluation have none
                reports.append((row.number, result["report"]))
            key = build_statistics.image_key(result)
            if (first := images.setdefault(key, row)) is not row:
                same.setdefault(key, [first]).append(row)
    rejected = totals.rejected_in_order()
    duplicates = [same[key] for key in images if key in same]
    codes = collections.Counter(one.code for one in rejected)
    return {
        "rows": totals.total() + len(rejected),
        "accepted": totals.counts(),
        "rejected": len(rejected),
        "reasons": dict(codes.most_common()),
        "rejects": [dataclasses.asdict(one) for one in rejected],
        "notes": dict(totals.notes.most_common()),
        "noted_rows": {code: noted[code] for code, _ in totals.notes.most_common()},
        "measures": measures(measured),
        "outliers": outliers(measured),
        "duplicates": [[row.number for row in rows] for rows in duplicates],
        "duplicates_in_two_splits": [
            [r.number for r in rows] for rows in duplicates if len({r.split for r in rows}) > 1
        ],
        "patients_in_two_splits": [one.row for one in rejected if one.code == "leak_patient"],
        "records": {
            "megabytes": round(sum(kilobytes) / 1e3, 1),
            "largest_megabytes": round(max(kilobytes) / 1e3, 3),
            "seconds_to_read": round(time.monotonic() - started, 1),
        },
        "reports": report_facts(reports, sorted(filter(None, totals.reports)), report_length, codes["empty_report"]),
    }


def stored_bytes(example: Mapping[str, Any]) -> int:
    """What a record of an example takes on the disk, but for its text: pixels as they are, masks packed."""
    pixels = sum(example[name].nbytes for name in ("image", "volume") if name in example)
    return pixels + sum(len(zlib.compress(example[name], 1)) for name in MASKS if name in example)


def measures(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Quantiles of every number of `image_statistics.measure`."""
    columns: dict[str, list[float]] = collections.defaultdict(list)
    for row in measured:
        for name, value in row.measures.items():
            columns[name].append(value)
    return {
        name: {f"p{q}": round(float(np.percentile(values, q)), 4) for q in QUANTILES}
        for name, values in columns.items()
    }


def outliers(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The rows with the strangest numbers, strangest first: the distance from the median in robust deviations."""
    farthest: dict[int, dict[str, Any]] = {}
    for name in dict.fromkeys(name for one in measured for name in one.measures):
        having = [one for one in measured if name in one.measures]
        values = np.array([one.measures[name] for one in having])
        if len(values) < MIN_ROWS:
            continue
        middle = statistics.median(values)
        # 1.4826: the deviation of a normal distribution. The floor keeps a set of equals from having outliers.
        usual = max(1.4826 * float(np.median(np.abs(values - middle))), 0.02 * abs(middle), 1e-3)
        for one, value in zip(having, values, strict=True):
            far = abs(value - middle) / usual
            if far > FAR and far > farthest.get(one.row.number, {"far": 0})["far"]:
                farthest[one.row.number] = {
                    "row": one.row.number,
                    "path": one.row.path,
                    "measure": name,
                    "value": round(float(value), 4),
                    "median": round(float(middle), 4),
                    "far": round(float(far), 1),
                }
    return sorted(farthest.values(), key=lambda one: -one["far"])


def report_facts(reports: Sequence[tuple[int, str]], train: Sequence[str], limit: int, empty: int) -> dict[str, Any]:
    """Counts over the reports (row, text): languages, sections, tokens, and texts that occur more than once."""
    texts = [report for _, report in reports]
    first: dict[bytes, int] = {}
    again: dict[bytes, list[int]] = {}
    for number, report in reports:
        key = hashlib.blake2b(report.lower().encode(), digest_size=16).digest()
        if (earlier := first.setdefault(key, number)) is not number:
            again.setdefault(key, [earlier]).append(number)
    repeated = sorted((again[key] for key in first if key in again), key=len, reverse=True)
    lengths = np.array([0])
    if texts:
        words = tokenizer.train(train or texts)
        parts = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        lengths = np.array([len(one.ids) for part in parts for one in words.encode_batch(part)])
    counts = collections.Counter(name for report in texts for name in sections.sections(report))
    return {
        "count": len(texts),
        "empty": empty,
        "languages": dict(collections.Counter(text.language(report) for report in texts).most_common()),
        "sections": {name: counts[name] for name in ("findings", "impression") if counts[name]},
        "tokens": {f"p{q}": int(np.percentile(lengths, q)) for q in QUANTILES},
        "token_limit": limit,
        "longer_than_limit": int((lengths > limit).sum()),
        "repeated_texts": len(repeated),
        "rows_with_repeated_text": sum(map(len, repeated)),
        "most_repeated": [{"times": len(numbers), "rows": numbers[:SHOWN]} for numbers in repeated[:5]],
    }


def table(examined: Mapping[str, Any]) -> str:
    """What `examine` gives, as text for the terminal."""
    entry, detail = "{:<28}{:>8}".format, "  {:<26}{:>8}".format
    places = [(f"{name} {split}", n) for name, counts in examined["accepted"].items() for split, n in counts.items()]
    lines = ["", entry("rows", examined["rows"]), entry("accepted", sum(n for _, n in places))]
    lines += [detail(*place) for place in places]
    lines.append(entry("rejected", examined["rejected"]))
    by_code = collections.defaultdict(list)
    for one in examined["rejects"]:
        by_code[Rejected(**one).code].append(f"    row {one['row']}: {one['path']}: {one['reason']}")
    for code, count in examined["reasons"].items():
        lines += [f"{detail(code, count)}  {reasons.REJECTED[code][0]}", *by_code[code][:EXAMPLES]]
        if count > EXAMPLES:
            lines.append(f"    and {count - EXAMPLES} more, in doctor.json")
    if examined["notes"]:
        lines.append("noted in accepted rows")
        noted = examined["noted_rows"].items()
        lines += [f"{detail(code, len(rows))}  {reasons.NOTES[code]}: rows {few(rows, 8)}" for code, rows in noted]
    lines.append(entry("outliers", len(examined["outliers"])))
    lines += [
        f"    row {one['row']}: {one['path']}: {one['measure']} {one['value']:g}, usually {one['median']:g}"
        for one in examined["outliers"][:5]
    ]
    lines.append(entry("same pixels twice", len(examined["duplicates"])))
    lines.append(entry("  in two splits", len(examined["duplicates_in_two_splits"])))
    lines.append(entry("rows of patients in 2 splits", len(examined["patients_in_two_splits"])))
    built = examined["records"]
    largest = f", the largest record {built['largest_megabytes']:g}"
    lines += ["a build of it", detail("takes MB of disk", round(built["megabytes"])) + largest]
    lines.append(detail("and seconds, about", round(built["seconds_to_read"])) + " with as many workers")
    facts = examined["reports"]
    lines.append("reports")
    lines += [detail(f"language {name}", count) for name, count in facts["languages"].items()]
    lines += [detail(f"with {name}", count) for name, count in facts["sections"].items()]
    lines.append(f"{detail('tokens, median and most', facts['tokens']['p50'])}{facts['tokens']['p100']:>8}")
    lines.append(detail(f"over {facts['token_limit']} tokens, cut", facts["longer_than_limit"]))
    lines.append(detail("rows with a shared text", facts["rows_with_repeated_text"]))
    return "\n".join(lines)


def few(rows: Sequence[int], count: int = SHOWN) -> str:
    """The first row numbers, and whether there are more."""
    return ", ".join(map(str, rows[:count])) + (", ..." if len(rows) > count else "")
