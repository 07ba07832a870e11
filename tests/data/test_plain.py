"""Text of files on terminals, in logs and in spreadsheets."""

import csv
import io
import json

import pytest

from data import json_files, plain
from data.sets import translate
from unimedi_jax.evaluation import results

HOSTILE = "a\x1b[31mred\x1b[0m\x9b2J\r\b\x07 \u202egnp.exe \ud800\u2028 b"


def test_nothing_that_a_terminal_obeys_is_left():
    shown = plain.text(HOSTILE)
    assert shown.isprintable()
    assert "\\x1b[31mred" in shown
    assert plain.text("zwei\nZeilen\tä 肺 Легкие") == "zwei\nZeilen\tä 肺 Легкие"


def test_a_stream_passes_on_all_but_commands():
    below = io.StringIO()
    stream = plain.Stream(below)
    print(HOSTILE, "ü", file=stream, flush=True)
    assert "\x1b" not in below.getvalue()
    assert below.getvalue().endswith("b ü\n")
    assert not stream.isatty()


def test_lines_of_json_stay_json():
    line = json_files.line({"path": HOSTILE, "ä": 1})
    assert json.loads(line) == {"path": HOSTILE, "ä": 1}
    assert line[:-1].isprintable()
    line.encode("utf-8")


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_begins_like_a_formula(tmp_path, text):
    results.write_cases(tmp_path / "cases.csv", [{"file": text, text: -0.5, "number": "-3.5", "plain": "a=b"}])
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as stream:
        header, row = csv.reader(stream)
    assert not any(cell.startswith(plain.FORMULA) for cell in header)
    assert row == [f"'{text}", "-0.5", "-3.5", "a=b"]
    marian = translate.Marian.__new__(translate.Marian)
    marian._page = tmp_path / "page.csv"
    marian._write([("1", "", "", text, text, "")])
    with (tmp_path / "page.csv").open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream))[1][3] == f"'{text}"
