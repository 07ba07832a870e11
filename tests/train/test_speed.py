"""Rates and the time left, as the log shows them."""

import types

import pytest

from unimedi_jax.train import speed as speeds
from unimedi_jax.train.speed import Speed


@pytest.fixture
def measured(monkeypatch):
    """(the clocks after 100 of 1,000 steps of 8 samples at a rate, the scalars of their report)."""

    def at(rate: float) -> tuple[Speed, dict[str, float]]:
        clock = iter([0.0, 100 / rate, 100 / rate])
        monkeypatch.setattr(speeds, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
        speed = Speed(first=0, last=1000, samples=8, device_kind="cpu", devices=1)
        speed.waited(10 / rate)
        return speed, speed.report(100)

    return at


@pytest.mark.parametrize(("rate", "left"), [(1.0, "15 min 00 s"), (10.0, "1 min 30 s"), (0.125, "2 h 00 min")])
def test_time_left_says_its_units(measured, rate: float, left: str) -> None:
    speed, _ = measured(rate)
    assert speed.eta(100) == left


def test_a_step_in_the_log_names_every_number(measured) -> None:
    speed, scalars = measured(10.0)
    values = scalars | {"loss": 4.5577, "loss/vl": 3.0586, "loss/icl": 0.74, "xray/vl": 3.0, "lr": 1e-4}
    assert speed.line(100, values) == (
        "step 100 of 1000: loss 4.558 (vl 3.059, icl 0.740); 80 samples/s, waiting for data 10.0% of the time; "
        "1 min 30 s left"
    )
    assert "80 samples/s, MFU 41%, waiting" in speed.line(100, values | {"speed/mfu": 0.41})
