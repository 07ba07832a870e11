"""Trackers show what metrics.jsonl holds, go on with their run, and never stop ours. Nothing leaves the machine."""

import dataclasses
import json
import logging
import pathlib
import struct
import sys
import time
import types
from collections.abc import Iterator

import pytest

from data.errors import UserError
from unimedi_jax import trackers, writers
from unimedi_jax.config.pretraining import PretrainConfig, profile_steps
from unimedi_jax.train.saved_config import shareable

CONFIG = {"steps": 9, "data_dir": "/home/somebody/records", "model": {"width": 3}, "name (odd)": "x" * 900}
VALUES = {"loss": 1.5, "val/xray/zeroshot/macro": 0.75, "val/ct/fracture (old)": 0.25, "nan": float("nan")}


@pytest.fixture
def page(tmp_path) -> pathlib.Path:
    path = tmp_path / "index.html"
    path.write_text("<p>page</p>")
    return path


def test_what_leaves_the_machine_has_no_paths():
    plain = json.loads(json.dumps(dataclasses.asdict(PretrainConfig())))
    folders = {"data_dir": "/mnt/jdoe", "compilations": "/mnt/jdoe", "tokenizer": "/mnt/jdoe"}
    mine = plain | folders | {"init": {"vision": "/mnt/jdoe"}, "evals": plain["evals"] | {"prompts": "/mnt/jdoe.json"}}
    assert "jdoe" not in json.dumps(shareable(mine))
    assert shareable(mine)["evals"] == plain["evals"]
    named = plain | {"evals": plain["evals"] | {"prompts": "ct_clip"}}
    assert shareable(named)["evals"]["prompts"] == "ct_clip", "what everybody has is no path"


def write(workdir: pathlib.Path, names: str, page: pathlib.Path, *, steps: tuple[int, ...]) -> None:
    shown = trackers.start(names, workdir, shareable(CONFIG))
    with writers.Writer(workdir, resume_step=steps[0] - 1, trackers=shown) as writer:
        for step in steps:
            writer.scalars(step, VALUES | {"loss": 1.5 + step})
        writer.page(page)


def test_mlflow_has_the_same_numbers_settings_and_page(tmp_path, page, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())  # files, as no server is here
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    workdir = tmp_path / "run"
    workdir.mkdir()
    write(workdir, "mlflow", page, steps=(1, 2))
    write(workdir, " mlflow,", page, steps=(3,))
    assert not [one for one in caplog.records if one.name == writers.__name__], "nothing failed on the way"
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("unimedi_jax").experiment_id])
    losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert losses == [(line["step"], line["loss"]) for line in writers.read(workdir)] == [(1, 2.5), (2, 3.5), (3, 4.5)]
    assert run.data.metrics["val/xray/zeroshot/macro"] == 0.75
    assert run.data.metrics["val/ct/fracture _old_"] == 0.25
    assert "nan" not in run.data.metrics
    assert run.data.params["model.width"] == "3"
    assert not any("somebody" in str(value) for value in run.data.params.values())
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    names = [one.path for folder in ("", "report") for one in client.list_artifacts(run.info.run_id, folder)]
    assert {"config.json", "report/index.html"} <= set(names)


def records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """The records of a file of Weights & Biases: behind 7 bytes a log of LevelDB, parts of records in blocks."""
    place, whole = 7, b""
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if (rest := block - place % block) < 7:
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)  # checksum; whole, first, middle or last part
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_wandb_has_the_same_numbers_settings_and_page(tmp_path, page, monkeypatch, caplog):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    def parse(path: pathlib.Path) -> list[wandb_internal_pb2.Record]:
        return [wandb_internal_pb2.Record.FromString(data) for data in records(path.read_bytes())]

    def is_whole(path: pathlib.Path) -> bool:
        return any(record.HasField("exit") for record in parse(path)[-1:])

    for name, value in {"MODE": "offline", "SILENT": "true", "CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("DATA_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name.lower()))
    workdir = tmp_path / "run"
    workdir.mkdir()
    write(workdir, "wandb", page, steps=(1, 2))
    write(workdir, "wandb", page, steps=(3,))
    assert not [one for one in caplog.records if one.name == writers.__name__], "nothing failed on the way"
    files = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    known = json.loads((workdir / trackers.FILE).read_text())["wandb"]
    assert [path.name for path in files] == [f"run-{known}.wandb"] * 2, "both are the same run"
    history, settings, artifacts = [], {}, []
    # A process of its own writes the files; `finish` does not wait for their last block.
    deadline = time.monotonic() + 60
    while not all(map(is_whole, files)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for record in (record for path in files for record in parse(path)):
        data = record.SerializeToString()
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            history.append({key: json.loads(value) for key, value in items.items() if not key.startswith("_")})
        settings |= {item.key: item.value_json for item in record.run.config.update}
        artifacts += [record.artifact.name] if record.artifact.name else []
        assert b"somebody" not in data
        assert str(workdir).encode() not in data.replace(str(page).encode(), b"")
    lines = [
        {key: value for key, value in line.items() if key not in ("time", "nan")} for line in writers.read(workdir)
    ]
    assert history == lines
    assert json.loads(settings["model"]) == {"width": 3}
    assert artifacts == [f"report-{known}"] * 2


def test_a_tracker_that_fails_is_left_and_the_run_goes_on(tmp_path, caplog):
    class Broken:
        name = "broken"
        calls = 0

        def scalars(self, step, values):
            self.calls += 1
            raise ConnectionError("no route")

    broken = Broken()
    with caplog.at_level(logging.WARNING), writers.Writer(tmp_path, resume_step=0, trackers=[broken]) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": 1.0})
        writer.page(tmp_path)
    assert len(writers.read(tmp_path)) == 3
    assert broken.calls == 1
    (message,) = caplog.messages
    assert message == "broken fails (ConnectionError): the run continues without it"


def test_what_cannot_start_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"config.track=wandb,tensorbord: 'tensorbord' is none of wandb, mlflow"):
        PretrainConfig(track="wandb,tensorbord")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"config.track=mlflow needs mlflow-skinny: pip install -r requirements-mlflow"):
        trackers.start("mlflow", tmp_path, {})

    def refuse(**_):
        raise RuntimeError("api_key not configured\n(no-tty)")

    fake = types.SimpleNamespace(Settings=lambda **_: None, init=refuse)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: True)
    with pytest.raises(UserError, match=r"track=wandb does not start \(api_key not configured \(no-tty\)\): wandb"):
        trackers.start("wandb", tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_the_steps_of_a_profile():
    assert profile_steps("100:105") == range(100, 106)
    assert not profile_steps("")
    for text in ("100", "0:3", "5:4", "a:b", "1:2:3"):
        with pytest.raises(ValueError, match=rf"config.profile={text}: the first and the last step"):
            profile_steps(text)
