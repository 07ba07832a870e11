"""metrics.jsonl reads as if a run had never stopped."""

import json
import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unimedi_jax import writers


def test_lines_after_the_resumed_step_are_cut(tmp_path):
    with writers.Writer(tmp_path, resume_step=0) as writer:
        for step in range(1, 6):
            writer.scalars(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 6, "lo')  # what a kill leaves
    with writers.Writer(tmp_path, resume_step=3) as writer:
        writer.scalars(4, {"loss": 0.5})
    lines = writers.read(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] == 0.5


def test_not_a_number_is_null_and_strict_json(tmp_path):
    with writers.Writer(tmp_path, resume_step=0) as writer:
        writer.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 2})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda _: 1 / 0)
    assert (line["a"], line["b"], line["c"]) == (None, None, 2.0)


def test_an_inactive_writer_leaves_nothing(tmp_path):
    with writers.Writer(tmp_path, resume_step=0, active=False) as writer:
        writer.scalars(1, {"a": 1.0})
    assert not list(tmp_path.iterdir())
    assert writers.read(tmp_path) == []


def test_tensorboard_shows_the_same_scalars_and_none_that_were_taken_back(tmp_path):
    values = {"loss": 1.5, "val/größe": -2e-30, "nan": float("nan")} | {f"loss/{n}": float(n) for n in range(40)}
    with writers.Writer(tmp_path, resume_step=0) as writer:
        writer.scalars(300, values)
        writer.scalars(301, {"loss": 7.0})
        writer.cut(300)
        writer.scalars(302, {"loss": 2.5})
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(shown.Tags()["scalars"]) == set(values) - {"nan"}
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [(300, 1.5), (302, 2.5)]
    for name in values.keys() - {"nan", "loss"}:
        assert [event.value for event in shown.Scalars(name)] == [np.float32(values[name])]


def test_writing_needs_neither_pytorch_nor_tensorflow():
    code = "import sys; from unimedi_jax import writers; sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
