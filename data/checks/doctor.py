"""Examines a source without building it: rejects, outliers, duplicates and reports, as one plain dict."""

import collections
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from data import progress, reasons
from data.build import build_statistics, pool
from data.readers import image_statistics
from data.reports import sections, text, tokenizer
from data.source import Rejected, Row, Source

FAR = 6.0  # robust standard deviations from which on a case is an outlier
MIN_CASES = 8  # fewer have no usual value
SHOWN = 20
QUANTILES = (0, 1, 50, 99, 100)


@dataclasses.dataclass(frozen=True)
class Case:
    """What the doctor keeps of an accepted row; pixels are looked at and let go."""

    row: Row
    measures: Mapping[str, float]


def examine(source: Source, converting: AbstractContextManager[pool.Convert], *, report_length: int) -> dict[str, Any]:
    """Converts every row and writes nothing: the content of `doctor.json`. `converting` is what `pool.opened` gives.

    Holds row numbers, paths and codes, and no report text: cases are named by their row.
    """
    counted = build_statistics.Census(list(source.rejected))
    cases: list[Case] = []
    reports: list[tuple[int, str]] = []
    pictures: dict[bytes, list[Row]] = collections.defaultdict(list)
    noted: dict[str, list[int]] = collections.defaultdict(list)
    with converting as convert, progress.shown(len(source.rows), "rows") as tick:
        for row, result in convert(source.rows):
            tick(1)
            if isinstance(result, Rejected):
                counted.rejected.append(result)
                continue
            notes = result.pop("notes", ())
            counted.add(row.modality, row.split, result, notes)
            for code in notes:
                noted[code].append(row.number)
            cases.append(Case(row, image_statistics.measure(result)))
            if result["report"]:  # sets to be evaluated on have none
                reports.append((row.number, result["report"]))
            pictures[build_statistics.picture_key(result)].append(row)
    rejected = counted.in_order()
    same = [rows for rows in pictures.values() if len(rows) > 1]
    codes = collections.Counter(_code(one) for one in rejected)
    return {
        "rows": counted.total() + len(rejected),
        "accepted": counted.counts(),
        "rejected": len(rejected),
        "reasons": dict(codes.most_common()),
        "rejects": [dataclasses.asdict(one) for one in rejected],
        "notes": dict(counted.notes.most_common()),
        "noted_rows": {code: noted[code] for code, _ in counted.notes.most_common()},
        "measures": measures(cases),
        "outliers": outliers(cases),
        "duplicates": [[row.number for row in rows] for rows in same],
        "duplicates_in_two_splits": [[r.number for r in rows] for rows in same if len({r.split for r in rows}) > 1],
        "patients_in_two_splits": [one.row for one in rejected if _code(one) == "leak_patient"],
        "reports": report_facts(reports, sorted(filter(None, counted.reports)), report_length, codes["empty_report"]),
    }


def measures(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Quantiles of every number of `image_statistics.measure`."""
    columns: dict[str, list[float]] = collections.defaultdict(list)
    for case in cases:
        for name, value in case.measures.items():
            columns[name].append(value)
    return {
        name: {f"p{q}": round(float(np.percentile(values, q)), 4) for q in QUANTILES}
        for name, values in columns.items()
    }


def outliers(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The strangest cases, strangest first: how far which number lies from its median, in robust deviations."""
    found: dict[int, dict[str, Any]] = {}
    for name in dict.fromkeys(name for case in cases for name in case.measures):
        having = [case for case in cases if name in case.measures]
        values = np.array([case.measures[name] for case in having])
        if len(values) < MIN_CASES:
            continue
        middle = statistics.median(values)
        # 1.4826: the deviation of a normal distribution. The floor keeps a set of equals from having outliers.
        usual = max(1.4826 * float(np.median(np.abs(values - middle))), 0.02 * abs(middle), 1e-3)
        for case, value in zip(having, values, strict=True):
            far = abs(value - middle) / usual
            if far > FAR and far > found.get(case.row.number, {"far": 0})["far"]:
                found[case.row.number] = {
                    "row": case.row.number,
                    "path": case.row.path,
                    "measure": name,
                    "value": round(float(value), 4),
                    "median": round(float(middle), 4),
                    "far": round(float(far), 1),
                }
    return sorted(found.values(), key=lambda one: -one["far"])


def report_facts(reports: Sequence[tuple[int, str]], train: Sequence[str], limit: int, empty: int) -> dict[str, Any]:
    """Counts over the reports (row, text): languages, sections, tokens, and texts that stand more than once."""
    texts = [report for _, report in reports]
    rows: dict[str, list[int]] = collections.defaultdict(list)
    for number, report in reports:
        rows[report.lower()].append(number)
    repeated = sorted((numbers for numbers in rows.values() if len(numbers) > 1), key=len, reverse=True)
    lengths = np.array([0])
    if texts:
        words = tokenizer.train(train or texts)
        lengths = np.array([len(one.ids) for one in words.encode_batch(texts)])
    found = collections.Counter(name for report in texts for name in sections.sections(report))
    return {
        "count": len(texts),
        "empty": empty,
        "languages": dict(collections.Counter(text.language(report) for report in texts).most_common()),
        "sections": {name: found[name] for name in ("findings", "impression") if found[name]},
        "tokens": {f"p{q}": int(np.percentile(lengths, q)) for q in QUANTILES},
        "token_limit": limit,
        "longer_than_limit": int((lengths > limit).sum()),
        "repeated_texts": len(repeated),
        "rows_with_repeated_text": sum(map(len, repeated)),
        "most_repeated": [{"times": len(numbers), "rows": numbers[:SHOWN]} for numbers in repeated[:5]],
    }


def table(found: Mapping[str, Any]) -> str:
    """The examination for the screen."""
    accepted = sum(sum(counts.values()) for counts in found["accepted"].values())
    lines = ["", f"{'rows':<28}{found['rows']:>8}", f"{'accepted':<28}{accepted:>8}"]
    lines += [
        f"  {modality + ' ' + split:<26}{count:>8}"
        for modality, counts in found["accepted"].items()
        for split, count in counts.items()
    ]
    lines.append(f"{'rejected':<28}{found['rejected']:>8}")
    lines += [f"  {code:<26}{n:>8}  {reasons.REJECTED[code][0]}" for code, n in found["reasons"].items()]
    lines += [f"    row {one['row']}: {one['path']}: {one['reason']}" for one in found["rejects"][:SHOWN]]
    if found["rejected"] > SHOWN:
        lines.append(f"    and {found['rejected'] - SHOWN} more, in doctor.json")
    if found["notes"]:
        lines.append("noted in accepted rows")
        lines += [
            f"  {code:<26}{len(rows):>8}  {reasons.NOTES[code]}: rows {few(rows, 8)}"
            for code, rows in found["noted_rows"].items()
        ]
    lines.append(f"{'outliers':<28}{len(found['outliers']):>8}")
    lines += [
        f"    row {one['row']}: {one['path']}: {one['measure']} {one['value']:g}, usually {one['median']:g}"
        for one in found["outliers"][:5]
    ]
    lines.append(f"{'same pixels twice':<28}{len(found['duplicates']):>8}")
    lines.append(f"{'  in two splits':<28}{len(found['duplicates_in_two_splits']):>8}")
    lines.append(f"{'rows of patients in 2 splits':<28}{len(found['patients_in_two_splits']):>8}")
    facts = found["reports"]
    lines.append("reports")
    lines += [f"  {'language ' + name:<26}{count:>8}" for name, count in facts["languages"].items()]
    lines += [f"  {'with ' + name:<26}{count:>8}" for name, count in facts["sections"].items()]
    lines.append(f"  {'tokens, median and most':<26}{facts['tokens']['p50']:>8}{facts['tokens']['p100']:>8}")
    lines.append(f"  {'over ' + str(facts['token_limit']) + ' tokens, cut':<26}{facts['longer_than_limit']:>8}")
    lines.append(f"  {'rows with a shared text':<26}{facts['rows_with_repeated_text']:>8}")
    return "\n".join(lines)


def few(rows: Sequence[int], count: int = SHOWN) -> str:
    """The first of some row numbers, and whether there are more."""
    return ", ".join(map(str, rows[:count])) + (", ..." if len(rows) > count else "")


def _code(one: Rejected) -> str:
    return one.reason.partition(":")[0]
