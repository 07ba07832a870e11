"""The objective that docs/objectives.md prints: under 30 lines, and it trains as printed."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from configs import pretrain, systems
from unimedi_jax import objectives, optim
from unimedi_jax.config import objectives as settings
from unimedi_jax.config import presets
from unimedi_jax.config.pretraining import OptimConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train import state as states
from unimedi_jax.train import step as steps

TEXT = pathlib.Path(__file__).parents[2] / "docs" / "objectives.md"


@pytest.fixture(scope="module")
def blocks() -> tuple[str, str]:
    """The settings, and the file of the objective."""
    own, file = re.findall(r"```python\n(.*?)```", TEXT.read_text(encoding="utf-8"), re.DOTALL)
    return own, file


@pytest.fixture
def cosine(blocks, tmp_path, monkeypatch):
    own, file = blocks
    exec(own, namespace := {"dataclasses": dataclasses})
    monkeypatch.setattr(settings, "Cosine", namespace["Cosine"], raising=False)
    monkeypatch.setitem(settings.OBJECTIVES, "cosine", settings.Cosine)
    path = tmp_path / "cosine.py"
    path.write_text(file)
    spec = importlib.util.spec_from_file_location("cosine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(objectives.OBJECTIVES, "cosine", module.Objective)
    monkeypatch.setitem(systems.SYSTEMS, "cosine", {})
    config = pretrain.get_config("demo")
    presets.apply(config, pretrain.changes(small=True)["cosine"])
    config.objective.weight_cosine = 2.0
    return objectives.make(**dataclasses.asdict(typed(PretrainConfig, config).objective))


def test_it_is_short(blocks):
    assert sum(len(block.splitlines()) for block in blocks) < 30


def test_it_trains_as_printed(cosine, make_tiny, make_batch):
    model = make_tiny(objective=cosine)
    tx, schedule = optim.make(OptimConfig(warmup_steps=1, peak_lr=1e-2, start_lr=1e-2), steps=5)
    train_step = steps.make_train_step(
        model, tx, objective=cosine, schedule=schedule, ema=optim.ema_schedule(base=0.9, final=1.0, steps=5)
    )
    before = jax.jit(states.make_init(model, tx, cosine))(jax.random.key(0))
    after, metrics = jax.jit(train_step)(before, make_batch(model, 3, 2))
    values = {name: float(metric.value) for name, metric in metrics.items()}
    assert values["loss"] == pytest.approx(2 * values["loss/cosine"])
    assert values["loss/cosine"] == pytest.approx((3 * values["xray/cosine"] + 2 * values["ct/cosine"]) / 5, rel=1e-5)
    assert 0 < values["loss/cosine"] < 2
    assert after.teacher == {}
    for tower in ("vision", "report"):
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params[tower], after.params[tower])
        assert any(jax.tree.leaves(moved))
