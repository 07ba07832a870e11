"""Long passes tell how far they are: lines in a log, a bar on a terminal, nothing where it takes seconds."""

import sys

import pytest

from data import progress


def go(count: int) -> None:
    with progress.shown(10, "rows", done=4) as tick:
        for _ in range(count):
            tick(2)


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    go(3)
    assert not caplog.messages
    clock = iter([0, 20, 40, 60])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    go(3)
    assert caplog.messages == ["8 of 10 rows, 0.1/s, 0:00:20 left"]


def test_a_terminal_gets_a_bar_if_it_takes_long(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    go(3)
    assert "rows" not in capsys.readouterr().err
    waits = progress.tqdm.tqdm
    monkeypatch.setattr(progress.tqdm, "tqdm", lambda **options: waits(**options | {"delay": 0, "mininterval": 0}))
    go(2)
    assert "rows:  60%" in capsys.readouterr().err
