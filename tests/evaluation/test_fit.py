"""Supervised training: it learns, stops early, returns its best epoch, and gives the same on any number of devices."""

import dataclasses
import itertools
import logging
import operator
import re
import types
from math import nan

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp
from monai.optimizers import WarmupCosineSchedule

from data.errors import UserError
from tests.tolerances import float32
from unimedi_jax import sharding
from unimedi_jax.config.jobs import DetectConfig, EvaluateConfig, FitConfig, ProbeConfig, SegmentConfig
from unimedi_jax.evaluation import (
    candidate_tuning,
    detect,
    evaluate,
    fine_tuning,
    fit,
    mgca_probe,
    segment,
    volume_tuning,
)
from unimedi_jax.evaluation.network import Network


def _loss(network, batch):
    (params, stats), x = network, batch["x"]
    predicted = x @ params["encoder"]["w"] + params["decoder"]["b"][None] + stats["offset"]
    return jnp.mean((predicted - batch["y"]) ** 2), stats | {"steps": stats["steps"] + 1}


def _batches():
    rng = np.random.default_rng(0)
    while True:
        x = rng.normal(size=(8, 3)).astype(np.float32)
        yield {"x": x, "y": (x @ [[1.0], [2.0], [3.0]] + 0.5).astype(np.float32)}


RECIPE = FitConfig(epochs=3, patience=10, lr=0.1, encoder_lr=0.03, weight_decay=0.01)


def _fit(mesh=None, score=None, steps=0, key="lr", **changes):
    params = {"encoder": {"w": jnp.zeros((3, 1))}, "decoder": {"b": jnp.zeros(1)}}
    start = Network(params, {"offset": jnp.zeros(()), "steps": jnp.zeros(())})
    recipe = dataclasses.replace(RECIPE, **changes)
    loop = fit.Loop(steps or 4 * recipe.epochs, mesh or sharding.make_mesh(), lr=key)
    return fit.fit(start, _loss, _batches(), score, recipe, loop)


def test_follows_torch_adamw_with_two_learning_rates():
    w, b = torch.zeros(3, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    groups = [{"params": [w], "lr": 0.03}, {"params": [b], "lr": 0.1}]
    judge = torch.optim.AdamW(groups, weight_decay=0.01)
    for batch in itertools.islice(_batches(), 12):
        judge.zero_grad()
        ((torch.tensor(batch["x"]) @ w + b - torch.tensor(batch["y"])) ** 2).mean().backward()
        judge.step()
    params, stats = _fit().network
    near = float32(8, depth=12 * 4)  # twelve steps: prediction, gradient and both moments
    np.testing.assert_allclose(params["encoder"]["w"], w.detach().numpy(), atol=near)
    np.testing.assert_allclose(params["decoder"]["b"], b.detach().numpy(), atol=near)
    assert stats["steps"] == 12


def test_follows_torch_adam_whose_weight_decay_is_a_part_of_the_gradient():
    w, b = torch.zeros(3, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    judge = torch.optim.Adam([{"params": [w], "lr": 0.03}, {"params": [b], "lr": 0.1}], weight_decay=0.5)
    for batch in itertools.islice(_batches(), 12):
        judge.zero_grad()
        ((torch.tensor(batch["x"]) @ w + b - torch.tensor(batch["y"])) ** 2).mean().backward()
        judge.step()
    params, _ = _fit(weight_decay=0.0, l2=0.5).network
    near = float32(8, depth=12 * 4)
    np.testing.assert_allclose(params["encoder"]["w"], w.detach().numpy(), atol=near)
    np.testing.assert_allclose(params["decoder"]["b"], b.detach().numpy(), atol=near)


def test_one_device_gives_what_eight_give():
    one = jax.make_mesh((1, 1), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1])
    a, b = _fit(), _fit(one)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a.network.params, b.network.params)


@pytest.mark.parametrize(("steps", "after"), [(7, [2, 4, 7]), (3, [1, 2, 3]), (12, [4, 8, 12])])
def test_all_steps_are_made_whatever_the_number_of_epochs(steps, after):
    made = []
    fitted = _fit(score=lambda network: made.append(int(network.stats["steps"])) or float(len(made)), steps=steps)
    assert made == after
    assert fitted.network.stats["steps"] == steps


def test_stops_early_and_keeps_the_best_epoch():
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.9])
    fitted = _fit(score=lambda network: next(scores), epochs=6, patience=3)
    assert (fitted.epoch, fitted.score, fitted.network.stats["steps"]) == (2, 0.5, 8)
    assert next(scores) == 0.9  # never asked for


def test_an_undefined_validation_is_no_better_and_patience_ends_it():
    """An AUROC of validation patients of one class is not a number."""
    scores = iter([nan, 0.5, nan, nan, 0.9])
    fitted = _fit(score=lambda network: next(scores), epochs=5, patience=2)
    assert (fitted.epoch, fitted.score) == (2, 0.5)
    assert next(scores) == 0.9  # never asked for
    scores = itertools.repeat(nan)
    fitted = _fit(score=lambda network: next(scores), epochs=9, patience=3)
    assert (fitted.epoch, fitted.network.stats["steps"]) == (3, 12), "the last epoch, since none is known to be better"


def test_an_epoch_says_how_long_the_rest_may_take(caplog):
    with caplog.at_level(logging.INFO):
        _fit()
    assert re.findall(r"epoch (\d) of at most 3, .*, at most 0:\d\d:\d\d left", caplog.text) == ["1", "2", "3"]


def test_divergence_is_one_line():
    with pytest.raises(UserError, match="not finite"):
        _fit(lr=1e38)
    with pytest.raises(UserError, match=r"config\.full\.batch=7 does not divide over \d devices"):
        fit.check_batch(7, sharding.make_mesh(), fit.keys("full").batch)


def test_advice_names_settings_that_the_job_has():
    """Every task's: the section of its recipe in the job that trains it."""
    siim = types.SimpleNamespace(contract={"source": {"kind": "siim"}})
    of_all = EvaluateConfig()
    sections = {name: evaluate._section(of_all, name) for name in ("segment", "detect")}

    def segmenter(modality, config):
        return segment.Task(None, siim, modality, "full", {}, config)

    probing, segmenting, detecting = ProbeConfig(), SegmentConfig(), DetectConfig()
    volumes, published = ProbeConfig(protocol="hkbu", tune="full"), SegmentConfig(protocol="mgca")
    for task, config in (
        (fine_tuning.FineTuning(None, siim, "ct", probing), probing),
        (mgca_probe.Linear(None, siim, "xray", probing), probing),
        (volume_tuning.VolumeTuning(None, siim, "ct", volumes), volumes),
        (segmenter("xray", segmenting), segmenting),
        (segmenter("ct", segmenting), segmenting),
        (segmenter("xray", published), published),
        (segmenter("ct", SegmentConfig(**sections["segment"])), of_all),
        (detect.Task(None, siim, "full", detecting), detecting),
        (detect.Task(None, siim, "full", DetectConfig(**sections["detect"])), of_all),
        (candidate_tuning.CandidateTuning(None, siim, of_all), of_all),
    ):
        for key, value in zip(task.keys, (task.recipe.lr, task.recipe.batch), strict=True):
            assert operator.attrgetter(key.removeprefix("config."))(config) == value


def test_a_loss_that_is_not_finite_names_the_rate():
    with pytest.raises(UserError, match=r"try a lower config\.unetr\.lr"):
        _fit(lr=1e38, key="config.unetr.lr")


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_rates_warm_up_and_fall_along_a_cosine_as_monais(warmup):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=0.3)
    theirs = WarmupCosineSchedule(optimiser, warmup_steps=round(100 * warmup), t_total=100)
    own = fit.schedule(0.3, dataclasses.replace(RECIPE, warmup=warmup, cosine=True), 100)
    for step in range(101):
        assert float(own(step)) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-6)
        optimiser.step()
        theirs.step()
    assert fit.schedule(0.3, RECIPE, 100) == 0.3
    risen = fit.schedule(0.3, dataclasses.replace(RECIPE, warmup=0.5), 100)
    assert [float(risen(step)) for step in (0, 25, 50, 90)] == pytest.approx([0, 0.15, 0.3, 0.3])
