"""Repeated measurements, their medians and spread, as lines of a table and of JSON."""

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

LINES = "bench.jsonl"


@dataclasses.dataclass(frozen=True)
class Result:
    """One quantity, measured several times, and its goal in words."""

    name: str
    unit: str
    values: tuple[float, ...]
    goal: str = ""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return min(self.values), max(self.values)

    def line(self) -> str:
        """One row of the table."""
        low, high = map(short, self.spread)
        several = f"({low} to {high}, {len(self.values)} rounds)" if len(self.values) > 1 else ""
        return f"  {self.name:<58}{short(self.median):>10} {self.unit:<12}{several:<32}{self.goal}".rstrip()

    def json(self) -> dict[str, Any]:
        """One line of bench.jsonl."""
        low, high = self.spread
        facts = {"name": self.name, "unit": self.unit, "median": self.median, "low": low, "high": high}
        return facts | {"rounds": len(self.values), "values": list(self.values), "goal": self.goal}


def short(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def ratio(name: str, above: Sequence[float], below: Sequence[float], goal: str = "") -> Result:
    """Round by round: other work on the machine slows down both sides of a round alike."""
    return Result(name, "x", tuple(a / b for a, b in zip(above, below, strict=True)), goal)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Calls all works in turn, `rounds` times; each returns its own measurement."""
    values = [[work() for work in works.values()] for _ in range(rounds)]
    return dict(zip(works, zip(*values, strict=True), strict=True))


def report(title: str, results: Sequence[Result], workdir: pathlib.Path) -> None:
    """Prints a table and appends its rows to `workdir/bench.jsonl`."""
    print("\n".join([title, *(one.line() for one in results)]), flush=True)
    with (workdir / LINES).open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"table": title, **one.json()}) + "\n" for one in results)
