"""A run goes on with its own settings and data, or is told to go on with others."""

import json
import types

import pytest

from data.errors import UserError
from unimedi_jax import machine, sharding
from unimedi_jax.train import dataset, saved_config

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
    assert saved_config.keep(other, tmp_path, force=False) == BEFORE


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
