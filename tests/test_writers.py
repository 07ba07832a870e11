"""metrics.jsonl reads as if a run had never stopped."""

import json
import pathlib
import struct
import subprocess
import sys

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from unimedi_jax import writers


def events(workdir: pathlib.Path) -> list[Event]:
    """The messages of a run's event files, in order, with their checksums verified."""
    messages = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            message, rest = content[12 : 12 + length], content[12 + length :]
            checksums = struct.unpack("<II", content[8:12] + rest[:4])
            assert checksums == (masked_crc32c(content[:8]), masked_crc32c(message))
            messages.append(Event.FromString(message))
            content = rest[4:]
    return messages


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


def test_tensorboard_reads_the_same_scalars(tmp_path):
    """Against the messages and checksums of another writer."""
    values = {"loss": 1.5, "val/größe": -2e-30, "nan": float("nan")} | {f"loss/{n}": float(n) for n in range(40)}
    with writers.Writer(tmp_path, resume_step=0) as writer:
        writer.scalars(300, values)
        writer.cut(299)
    version, start, scalars, again, restart = events(tmp_path)
    assert (version.file_version, again.file_version) == ("brain.Event:2", "brain.Event:2")
    assert (start.step, restart.step) == (1, 300)  # from here on TensorBoard hides what was written before
    assert start.session_log.status == restart.session_log.status == SessionLog.START
    assert scalars.step == 300
    assert 0 <= restart.wall_time - scalars.wall_time < 60
    assert writers.read(tmp_path) == []
    shown = {value.tag: value.simple_value for value in scalars.summary.value}
    expected = {name: struct.unpack("<f", struct.pack("<f", value))[0] for name, value in values.items()}
    assert shown == {name: value for name, value in expected.items() if name != "nan"}


def test_writing_needs_neither_pytorch_nor_tensorflow():
    code = "import sys; from unimedi_jax import writers; sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
