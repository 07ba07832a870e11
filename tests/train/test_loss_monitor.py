"""Every step is watched: spikes and skipped steps are recorded with their record ids, too many in a row end the run."""

import json

import jax
import pytest
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax.mean import Mean
from unimedi_jax.train.loss_monitor import LossMonitor, LossSpike, StepResult, record_ids


def result(step: int, loss: float, in_a_row: int = 0) -> StepResult:
    metrics = {"loss": Mean.of(jnp.float32(loss)), "skipped/in_a_row": Mean.of(jnp.int32(in_a_row))}
    return StepResult(step, metrics, {"xray": [f"x{step}"], "ct": []})


def test_a_spike_is_recorded_with_its_records(tmp_path, caplog):
    monitor = LossMonitor(tmp_path, max_skipped=3, spike=6.0)
    noise = jax.random.normal(jax.random.key(0), (60,)) * 0.1
    for step in range(60):
        monitor.update(result(step, 2.0 + float(noise[step])))
    assert not (tmp_path / "incidents").exists()
    monitor.update(result(60, 3.5))
    incident = json.loads((tmp_path / "incidents" / "60-spike.json").read_text())
    assert incident["ids"] == {"xray": ["x60"], "ct": []}
    assert "step 60: loss 3.500 where at most 2." in caplog.text


def test_skipped_steps_in_a_row_end_the_run(tmp_path):
    monitor = LossMonitor(tmp_path, max_skipped=3, spike=0.0)
    for in_a_row in (1, 2, 0, 1, 2):
        monitor.update(result(in_a_row, float("nan"), in_a_row))
    with pytest.raises(UserError, match="step 9: 3 steps in a row were not finite"):
        monitor.update(result(9, float("nan"), 3))
    incident = json.loads((tmp_path / "incidents" / "9-skipped.json").read_text())
    assert incident["metrics"]["loss"] == "nan"


def test_spikes_in_a_row_send_the_state_back_a_few_times(tmp_path):
    settings = {"max_skipped": 3, "spike": 6.0, "rollback": 2, "max_rollbacks": 1}
    monitor = LossMonitor(tmp_path, **settings)
    for step in range(40):
        monitor.update(result(step, 2.0 + 0.1 * (step % 3)))
    saved = json.loads(json.dumps(monitor.memory))  # as a checkpoint keeps it
    monitor.update(result(40, 9.0))
    monitor.update(result(41, 2.0))  # back by itself: the next one counts from one again
    monitor.update(result(42, 90.0))
    with pytest.raises(LossSpike) as spike:
        monitor.update(result(43, 95.0))
    assert spike.value.step == 41

    again = LossMonitor(tmp_path, **settings, memory=monitor.rolled_back(saved))
    assert again.memory == saved | {"rollbacks": 1}
    again.update(result(40, 90.0))
    with pytest.raises(UserError, match="step 41: the loss spikes again after 1 rollbacks"):
        again.update(result(41, 95.0))


def test_ids_of_a_batch_are_text():
    assert record_ids({"xray": {"id": [b"a", "b"]}}) == {"xray": ["a", "b"]}
