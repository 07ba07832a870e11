"""A run goes on with its own settings and data, or is told to go on with others."""

import dataclasses
import json
import types

import pytest

from data.errors import UserError
from unimedi_jax import machine, sharding
from unimedi_jax.config.pretraining import BatchConfig, InputConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import pipeline
from unimedi_jax.train import dataset, job, saved_config

BEFORE = {"steps": 9, "model": {"width": 3}, "optim": {"b1": 0.9}, "log_every": 5, "evals": {"every": 2}}
NOW = {"steps": 9, "model": {"width": 4}, "optim": {"b1": 0.8}, "log_every": 7, "evals": {"every": 3}}


def test_what_changed_is_listed_and_force_overrides(tmp_path):
    assert saved_config.keep(BEFORE, tmp_path, force=False) == BEFORE
    with pytest.raises(UserError, match=r"model.width: 3 then, 4 now; optim.b1: 0.9 then, 0.8 now.*resume.force"):
        saved_config.keep(NOW, tmp_path, force=False)
    assert json.loads((tmp_path / "config.json").read_text()) == BEFORE
    assert saved_config.keep(NOW, tmp_path, force=True) == NOW
    assert saved_config.keep(NOW, tmp_path, force=False) == NOW


def test_what_speaks_and_saves_may_change(tmp_path):
    saved_config.keep(BEFORE, tmp_path, force=False)
    other = BEFORE | {"log_every": 1, "checkpoint": {"every": 1}, "guard": {"spike": 0}, "resume": {"force": True}}
    assert saved_config.keep(other, tmp_path, force=False) == other, "and is what the run has from here on"
    assert json.loads((tmp_path / "config.json").read_text()) == other


def test_what_may_change_is_recorded_beside_what_the_run_began_with(tmp_path):
    began = BEFORE | {"global_batch": {"xray": 96, "ct": 32}, "machine": {"device": "cpu"}, "older": 1}
    saved_config.keep(began, tmp_path, force=False)
    now = BEFORE | {"global_batch": {"xray": 48, "ct": 16}, "machine": {"device": "gpu"}, "older": 1}
    now |= {"checkpoint": {"best": "ct/zeroshot/macro"}, "evals": {"every": 7}, "optim": {"b1": 0.9, "chosen_for": 64}}
    after = saved_config.keep(now, tmp_path, force=False)
    assert after == now | {name: began[name] for name in ("global_batch", "machine")}
    assert json.loads((tmp_path / "config.json").read_text()) == after
    assert saved_config.check(BEFORE | {"older": 1}, tmp_path) is None
    assert json.loads((tmp_path / "config.json").read_text()) == after, "a comparison writes nothing"
    with pytest.raises(UserError, match=r"model.width: 3 then, 4 now"):
        saved_config.check(NOW | {"older": 1}, tmp_path)


def test_settings_that_are_not_there_are_missing_and_others_damaged(tmp_path):
    with pytest.raises(UserError, match=r"config.json is missing"):
        saved_config.check(BEFORE, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        saved_config.check(BEFORE, tmp_path)


def test_a_forced_run_has_the_global_batch_that_it_began_with_until_the_batch_is_changed(tmp_path, caplog):
    batch = {"xray": 12, "ct": 4, "total": 0}
    began = BEFORE | {"batch": batch, "global_batch": {"xray": 96, "ct": 32}, "machine": {"device": "cpu"}}
    saved_config.keep(began, tmp_path, force=False)
    now = began | {"global_batch": {"xray": 48, "ct": 16}, "machine": {"device": "gpu"}, "optim": {"b1": 0.8}}
    after = saved_config.keep(now, tmp_path, force=True)
    assert after == began | {"optim": {"b1": 0.8}}, "on half of the devices"
    assert "global batch" not in caplog.text
    now |= {"batch": batch | {"xray": 28}, "global_batch": {"xray": 112, "ct": 16}}
    assert saved_config.keep(now, tmp_path, force=True)["global_batch"] == {"xray": 112, "ct": 16}
    assert "the global batch: {'xray': 96, 'ct': 32} then, {'xray': 112, 'ct': 16} now" in caplog.text


def test_a_position_in_other_batches_is_behind_all_records_that_were_read():
    before, position = {"xray": 96, "ct": 32}, {"next_index": 5}
    assert pipeline.moved(position, before, {"xray": 96, "ct": 32}) == position
    assert pipeline.moved(position, before, {"xray": 48, "ct": 16}) == {"next_index": 10}
    assert pipeline.moved(position, before, {"xray": 192, "ct": 64}) == {"next_index": 3}, "half a batch is left out"
    assert pipeline.moved(position, before, {"xray": 96, "ct": 8}) == {"next_index": 20}
    assert pipeline.moved(position, before, {"xray": 96, "ct": 0}) == position


@pytest.mark.parametrize("foreign", ["unimedi.json", "config.json", "tokenizer"])
def test_a_folder_of_something_else_is_no_workdir(tmp_path, foreign):
    """An export, a model of the Hugging Face hub, a built set."""
    (tmp_path / "members.json").write_text("{}")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    if foreign != "tokenizer":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    if foreign == "unimedi.json":
        (tmp_path / "unimedi.json").write_text("{}")
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"{tmp_path} holds what is not of a run \(.*{foreign}.*: name another"):
        saved_config.forget_start(tmp_path)
    assert sorted(tmp_path.rglob("*")) == files


def test_what_a_failed_start_left_is_removed(tmp_path):
    for name in ("config.json", "init.json", "members.json"):
        (tmp_path / name).write_text('{"job": "pretrain"}')
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "metrics.jsonl").write_text("")
    saved_config.forget_start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_total_that_the_roots_of_the_records_cannot_share_is_named():
    config = PretrainConfig(batch=BatchConfig(40, 24, 96), input=InputConfig(modality_shares="sqrt"))
    sizes = {"xray": 2240, "ct": 400}
    sets = ((types.SimpleNamespace(size=lambda modality, split: sizes[modality]), 1.0),)
    words = (
        r"config.input.modality_shares=sqrt: config.batch.total=96 cannot be shared as 45 X-rays to 19 CTs: .* of 64"
    )
    with pytest.raises(UserError, match=words):
        dataset.share_rows(config, sets)
    whole = dataclasses.replace(config, batch=BatchConfig(40, 24, 128))
    assert dataset.share_rows(whole, sets).rows(8) == {"xray": 90, "ct": 38}


def test_a_forced_run_does_not_end_before_the_step_that_it_has_reached(config, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "700"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"steps": 700}')
    config.steps, config.resume.force = 500, True
    with pytest.raises(UserError, match=r"is at step 700, beyond config.steps=500: give at least 700"):
        job.build_job(typed(PretrainConfig, config), tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"steps": 700}'


def test_a_damaged_config_is_said(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": ')
    with pytest.raises(UserError, match=r"config.json is damaged"):
        saved_config.keep(BEFORE, tmp_path, force=False)


def test_processes_read_where_their_batches_have_room(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(dataset, "SHARED", tmp_path)
    monkeypatch.setattr(dataset.joblib, "cpu_count", lambda: 24)
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=200_000_000))
    assert dataset.reader_processes(-1, 1) == 0, "beside a CPU threads do"
    assert dataset.reader_processes(0, 10**12) == 0
    assert dataset.reader_processes(3, 10_000_000) == 3
    with pytest.raises(UserError, match=r"3 reading processes need 510 MB of .*, which has 200 MB left: .*--shm-size"):
        dataset.reader_processes(3, 30_000_000)
    monkeypatch.setattr(dataset.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(dataset.jax, "local_device_count", lambda: 2)
    assert dataset.reader_processes(-1, 5_000_000) == 8
    assert "threads read" not in caplog.text
    assert dataset.reader_processes(-1, 50_000_000) == 0
    assert "threads read instead" in caplog.text
    monkeypatch.setattr(dataset.joblib, "cpu_count", lambda: 6)
    assert dataset.reader_processes(-1, 5_000_000) == 3


def test_another_machine_is_named_and_does_not_stop_a_run(tmp_path, monkeypatch, caplog):
    here = machine.describe(sharding.make_mesh())
    assert here["device"] == "cpu"
    assert here["devices"] == 2
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() in (machine.platform.processor(), machine.platform.machine())
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nmodel name\t: AMD EPYC 9R14\n")
    elsewhere = machine.describe(sharding.make_mesh())
    assert elsewhere["processor"] == "AMD EPYC 9R14"
    saved_config.keep(BEFORE | {"machine": here}, tmp_path, force=False)
    then = saved_config.keep(BEFORE | {"machine": elsewhere}, tmp_path, force=False)["machine"]
    assert then == here, "config.json names the machine that the run began on"
    machine.warn_of_another(here, here)
    machine.warn_of_another({}, here)  # an older run
    assert not caplog.text
    machine.warn_of_another(then, elsewhere)
    assert f"processor {here['processor']} then, AMD EPYC 9R14 now" in caplog.text
    assert "differ in the last digits" in caplog.text


def test_a_setting_that_is_newer_than_the_run_has_done_as_its_default_does(tmp_path):
    saved_config.keep(BEFORE, tmp_path, force=False)
    assert saved_config.keep(BEFORE | {"input": {"group_studies": True}}, tmp_path, force=False) == BEFORE
    with pytest.raises(UserError, match=r"input.group_studies: True then, False now"):
        saved_config.keep(BEFORE | {"input": {"group_studies": False}}, tmp_path, force=False)
