"""Medians, spreads and ratios; no clock is asserted on."""

import json
import pathlib

import pytest

from unimedi_jax import machine
from unimedi_jax.bench import measure, step


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that turns three times as slow for one round changes no ratio."""
    ratio = measure.ratio("faster", [2.0, 6.0, 2.2], [1.0, 3.0, 1.1])
    assert ratio.values == pytest.approx((2.0, 2.0, 2.0))


def test_works_take_turns() -> None:
    order = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = measure.interleaved({name: lambda n=name: work(n) for name in "ab"}, 3)
    assert order == list("ababab")
    assert values == {"a": (1.0, 3.0, 5.0), "b": (2.0, 4.0, 6.0)}


def test_lines_and_table(tmp_path: pathlib.Path, capsys) -> None:
    result = measure.Result("rate", "1/s", (1.0, 4.0, 2.0), "at least 1")
    measure.report("things", [result, measure.Result("one", "s", (3.0,))], tmp_path)
    measure.report("more", [result], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / measure.LINES).read_text().splitlines()]
    assert [line["table"] for line in lines] == ["things", "things", "more"]
    assert (lines[0]["median"], lines[0]["low"], lines[0]["high"], lines[0]["rounds"]) == (2.0, 1.0, 4.0, 3)
    printed = capsys.readouterr().out
    assert "(1 to 4, 3 rounds)" in printed
    assert "at least 1" in printed


@pytest.mark.parametrize(("flags", "goal"), [("fpu avx2 amx_tile", "at least 1"), ("fpu avx2", "at least 1.3")])
def test_the_goal_of_the_step_is_its_processors(tmp_path: pathlib.Path, monkeypatch, flags: str, goal: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: A CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    rows = step.table({"ours": (1.0,), "twin": (2.0,)}, {"ours": 1e9, "twin": 1e9}, samples=10)
    assert {row.name: row.goal for row in rows}["samples a second over the twin's"] == goal


def test_the_step_beside_the_twin() -> None:
    seconds, peaks = {"ours": (1.0, 2.0), "twin": (2.0, 5.0)}, {"ours": 1e9, "twin": 2e9}
    rows = {row.name: row for row in step.table(seconds, peaks, samples=10)}
    assert rows["ours: samples a second"].values == (10.0, 5.0)
    assert rows["samples a second over the twin's"].values == (2.0, 2.5)
    assert rows["peak memory over the twin's"].median == 0.5
    alone = step.table({"ours": (1.0,)}, {"ours": 1e9}, samples=10)
    assert len(alone) == 2
