"""The script that measures on a GPU, as far as a CPU allows."""

import json
import shutil

import pytest

from tests import gpu


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert gpu.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nvidia-smi" in line


def test_a_run_killed_once_is_rehearsed_on_the_cpu(tmp_path, capsys) -> None:
    assert gpu.main(["--rehearse", "--parts=run", "--minutes=60", f"--out={tmp_path}"]) == 0, capsys.readouterr().err
    _, _, pace, waiting = capsys.readouterr().out.splitlines()
    assert "killed once and gone on with" in pace
    assert waiting.count("%") == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 12


def test_rows_of_a_step() -> None:
    lines = [
        {"name": "ours: samples a second", "unit": "1/s", "median": 742.4, "low": 700.0, "high": 800.0, "rounds": 5},
        {
            "name": "ours: peak memory while stepping",
            "unit": "GiB",
            "median": 9.1,
            "low": 9.1,
            "high": 9.1,
            "rounds": 1,
        },
    ]
    words = ["--config=configs/bench.py:step", "--config.rounds=5"]
    first, second = map(str, gpu.step_rows([json.dumps(line) for line in lines], 48, 16, words))
    assert first == (
        "| step, 48 X-rays and 16 CTs: ours: samples a second | 742.4 1/s (700 to 800, 5 rounds) | "
        "`bench.py:step --config.rounds=5` |"
    )
    assert second == "| step, 48 X-rays and 16 CTs: ours: peak memory while stepping | 9.1 GiB |  |"


def test_a_step_that_was_taken_twice_is_a_failure() -> None:
    line = {"speed/samples_per_s": 9.0, "speed/wait_share": 0.01}
    lines = [json.dumps(line | {"step": step}) for step in (60, 70, 70)]
    with pytest.raises(gpu.FailedError, match="twice"):
        list(gpu.run_rows(lines, []))


def test_a_part_that_fails_is_named(tmp_path, capsys) -> None:
    assert gpu.main(["--rehearse", "--parts=step", "--minutes=0", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == "step: the time is over\n"
