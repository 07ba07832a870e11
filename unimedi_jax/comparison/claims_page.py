"""The page, the CSV and the lines on the terminal that say what became of each claim."""

import csv
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data import contract, pages, plain
from unimedi_jax.comparison.claims_numbers import NAMES, Numbers, Place
from unimedi_jax.comparison.claims_plan import CT_ONLY, FLOPS, ONE, STEPS, TWO, UNIMEDI, XRAY_ONLY
from unimedi_jax.comparison.claims_verdicts import LEVEL, Claim
from unimedi_jax.report import page, tables

TEMPLATE = page.TEMPLATE.with_name("claims.html")
TITLES = {CT_ONLY: "CTs alone", XRAY_ONLY: "X-rays alone", TWO: "two encoders", ONE: "one encoder", UNIMEDI: "UniMedI"}
TITLES |= {"supervised": "findings as targets", "supervised_fine": "findings as targets, finer tokens"}
FAMILIES = {"decides": "decides", STEPS: "at equal steps", FLOPS: "at equal FLOPs"}


class Line(NamedTuple):
    """A line of the CSV; "" where a column does not apply."""

    kind: str  # "claim", "condition", "gate" or "number"
    family: str  # "decides": the comparison that counts; "steps" and "flops": all four at equal ...
    claim: str
    name: str
    model: str = ""
    set: str = ""
    budget: str = ""
    value: float | str = ""
    low: float | str = ""  # 95 % over patients and seeds
    high: float | str = ""
    bound: float | str = ""
    p: float | str = ""  # one-sided
    p_holm: float | str = ""
    verdict: str = ""  # of a condition or gate: "yes" or "no"


def publish(
    families: Mapping[str, Sequence[Claim]], numbers: Numbers, workdir: pathlib.Path, config: Mapping[str, Any]
) -> None:
    """Writes `claims.csv` and `index.html`, and prints the verdicts."""
    lines = [line for family, claims in families.items() for claim in claims for line in _lines(family, claim)]
    lines += _numbers(numbers)
    _write_csv(workdir / "claims.csv", lines)
    seeds = max((len(runs) for runs in numbers.scores.values()), default=0)
    text = pages.render(
        TEMPLATE,
        name=workdir.name,
        families={FAMILIES[family]: claims for family, claims in families.items()},
        verdicts=list(zip(*families.values(), strict=True)),
        titles=TITLES,
        places=list(numbers.scores),
        measures=list(NAMES),
        estimate=numbers.estimate,
        patients=_patients(config, seeds),
        level=LEVEL,
        settings=contract.flat(config),
        isnan=math.isnan,
    )
    path = pages.write(workdir / "index.html", text)
    print(summary(families["decides"]))
    print(f"page: {path}\nall numbers: {workdir / 'claims.csv'}")


def summary(claims: Sequence[Claim]) -> str:
    """The verdicts as a table for the terminal."""
    rows = [["claim", "", "against", "verdict"]]
    rows += [[claim.name, claim.statement, f"equal {claim.budget}", claim.verdict] for claim in claims]
    return tables.aligned(rows)


def _patients(config: Mapping[str, Any], seeds: int) -> str:
    """On whom the page's numbers were measured."""
    if config["split"] == "test":
        kind = f"Test patients, drawn once with seed {config['test_seed']} after the settings were frozen"
    else:
        kind = "VALIDATION patients, on whom settings are chosen: no verdict on this page is final"
    counts = f"{config['patients']} X-rays, {config['patients']} CTs and {config['both']} patients examined both ways"
    return f"{kind}: {counts}; {seeds} training seeds."


def _lines(family: str, claim: Claim) -> list[Line]:
    shared = {"family": family, "claim": claim.name, "budget": claim.budget}
    result = {"p": claim.p_value, "p_holm": claim.adjusted, "verdict": claim.verdict}
    lines = [Line("claim", name=claim.statement, **shared, **result)]
    for each in claim.conditions:
        low, high = each.estimate.interval
        p = each.estimate.p_value if each.tested else ""
        values = {"value": each.estimate.value, "low": low, "high": high, "bound": each.least, "p": p}
        lines.append(Line("condition", name=each.name, **shared, **values, verdict=_yes(each.large_enough)))
    for gate in claim.gates:
        place = {"model": gate.place.model, "set": gate.place.data, "budget": gate.place.budget}
        values = {"value": gate.value, "bound": gate.bound, "verdict": _yes(gate.passed)}
        lines.append(Line("gate", name=gate.name, **{**shared, **place}, **values))
    return lines


def _numbers(numbers: Numbers) -> list[Line]:
    """Every measure of every model."""
    lines = []
    for place in numbers.scores:
        for measure in NAMES:
            estimate = numbers.estimate(measure, place)
            low, high = estimate.interval
            if not math.isnan(estimate.value):
                lines.append(_number(measure, place, estimate.value, low, high))
    return lines


def _number(measure: str, place: Place, value: float, low: float, high: float) -> Line:
    shared = {"model": place.model, "set": place.data, "budget": place.budget}
    return Line("number", "", "", measure, **shared, value=value, low=low, high=high)


def _yes(passed: bool) -> str:
    return "yes" if passed else "no"


def _write_csv(path: pathlib.Path, lines: Sequence[Line]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(Line._fields)
    for line in lines:
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else plain.cell(value) for value in line)
    pages.write(path, stream.getvalue())
