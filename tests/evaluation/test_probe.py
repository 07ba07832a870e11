"""The classification job: every metric, share, seed and encoder, from cached features or by training the network."""

import csv
import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import probe as configs
from data.errors import UserError
from unimedi_jax.config.jobs import FitConfig, ProbeConfig
from unimedi_jax.evaluation import encoder, fine_tuning, probe


@pytest.fixture
def config(records_dir, checkpoint_dir):
    config = configs.get_config()
    config.checkpoint, config.data_dir = str(checkpoint_dir), str(records_dir)
    config.shares, config.seeds = (0.5, 1.0), (0, 1)
    config.rows, config.resamples = 4, 20
    return config


def test_linear_probe_writes_every_number(config, tmp_path, capsys):
    probe.run(config, tmp_path)
    with (tmp_path / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["modality"] for row in rows} == {"xray", "ct"}
    assert {row["encoder"] for row in rows} == {"trained", "untrained"}
    # Two seeds at half the labels, one where the optimum has no chance in it.
    places = {(row["share"], row["seed"]) for row in rows}
    assert places == {("0.5", "0"), ("0.5", "1"), ("1.0", "0")}
    macro = [row for row in rows if row["metric"] in ("auroc/macro", "auprc/macro", "accuracy/macro")]
    assert len(macro) == 2 * 2 * 3 * 3
    assert all(row["value"] and 0 <= float(row["value"]) <= 1 for row in macro)
    printed = capsys.readouterr().out
    assert "auroc/macro10" in printed
    assert "-: macro10 is the mean over the findings with at least 10 positive and 10 negative test cases" in printed
    assert not (tmp_path / "parts").exists()


def test_the_same_command_gives_the_same_table(config, tmp_path):
    config.modality, config.shares, config.untrained = "xray", (0.5,), False
    for name in ("one", "two"):
        probe.run(config, tmp_path / name)
    assert (tmp_path / "one" / "results.csv").read_bytes() == (tmp_path / "two" / "results.csv").read_bytes()


def test_full_fine_tuning_learns(trained, phantom):
    def evaluated(recipe):
        config = ProbeConfig(
            modality="xray", tune="full", untrained=False, shares=(1.0,), seeds=(0,), resamples=0, full=recipe
        )
        return {row.metric: row.value for row in probe.evaluate(trained, phantom, config)}

    none = evaluated(FitConfig(8, epochs=1, lr=0.0, encoder_lr=0.0))
    assert none["auroc/macro"] == 0.5  # a head of zeros cannot tell anything, and calls everything present
    some = evaluated(FitConfig(8, epochs=2, lr=1e-2, encoder_lr=1e-3))
    assert some["accuracy/macro"] > none["accuracy/macro"]


@pytest.mark.parametrize("modality", ["xray", "ct"])
def test_cls_is_what_the_evaluations_embed(trained, phantom, modality):
    sampler = trained.sampler(modality)
    tokens = jnp.stack([sampler(phantom.source(modality, "test")[i])["tokens"] for i in range(2)])
    vision = {"vision": trained.variables["params"]["vision"]}
    for slices in (False, True):
        static = (slices,) if modality == "ct" else ()
        features = functools.partial(trained.model.apply, method=f"{modality}_features")
        expected = jax.jit(lambda variables, x, static=static, run=features: run(variables, x, *static))
        ours = jax.jit(functools.partial(encoder.cls, trained.model, modality=modality, ct_slices=slices))
        np.testing.assert_allclose(ours(vision, tokens), expected(trained.variables, tokens).cls, atol=1e-5)


def test_no_gradient_through_unknown_labels():
    labels = np.array([[1.0, np.nan], [np.nan, np.nan]])
    logits = np.array([[0.3, 5.0], [1.0, 2.0]])
    grad = jax.grad(lambda x: fine_tuning.losses(x, labels, False).sum())(logits)
    assert np.isfinite(grad).all()
    assert (np.asarray(grad)[[0, 1, 1], [1, 0, 1]] == 0).all()
    assert grad[0, 0] == pytest.approx(1 / (1 + np.exp(-0.3)) - 1, abs=1e-6)


def test_mistakes_are_named(config, tmp_path):
    config.tune = "head"
    with pytest.raises(UserError, match=r"config\.tune"):
        probe.run(config, tmp_path)
