"""Classifiers of CTs fine-tuned at a size of their own, by the published recipes."""

import dataclasses

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import ProbeConfig, VolumesConfig
from unimedi_jax.config.recipes import UNCHANGED
from unimedi_jax.evaluation import probe, trials
from unimedi_jax.evaluation.volume_tuning import VolumeTuning

RECIPE = VolumesConfig(size=(8, 32, 32), batch=4, epochs=1, lr=1e-2, least=0)
CONFIG = ProbeConfig(
    tune="full", protocol="unimiss", unimiss=RECIPE, shares=(1.0,), seeds=(0,), untrained=False, resamples=5
)


def test_rows_have_sensitivity_and_specificity_under_a_name_of_their_own(trained, phantom):
    rows = probe.evaluate(trained, phantom, CONFIG)
    assert {(row.task, row.modality) for row in rows} == {
        ("full fine-tuning, UniMiSS's protocol with other settings", "ct")
    }
    values = {row.metric: row.value for row in rows}
    assert {"accuracy/macro", "auroc/macro", "auprc/macro", *probe.RATES} <= set(values)


def test_the_whole_network_learns_at_the_size_asked_for(trained, phantom):
    task = VolumeTuning(trained, phantom, "ct", CONFIG)
    network = task.start(trials.Trial("trained"))
    assert {"encoder", "decoder"} == set(network.params)
    sample = task.sampler(task.source("test")[0])
    assert sample["tokens"].shape == RECIPE.size
    assert np.isfinite(task.score(network))


def test_recipes_are_the_published_ones():
    """UniMiSS: its README's command; HKBU: ccccii_config.yml; VoCo: its fine-tuning of CC-CCII."""
    config = ProbeConfig()
    unimiss, hkbu, voco = config.unimiss, config.hkbu, config.voco
    assert (unimiss.batch, unimiss.epochs, unimiss.lr, unimiss.weight_decay, unimiss.least) == (8, 200, 1e-5, 5e-3, 512)
    assert (hkbu.size, hkbu.batch, hkbu.epochs, hkbu.lr, hkbu.encoder_lr) == ((64, 128, 128), 9, 100, 1e-3, 1e-3)
    assert (hkbu.fit.l2, hkbu.fit.weight_decay, hkbu.fit.cosine, hkbu.fit.warmup) == (5e-4, 0.0, True, 0.0)
    assert (hkbu.share, hkbu.standardise, hkbu.flips, hkbu.flip) == (128 / 160, True, 0.5, (0.5, 0.5, 0.5))
    assert hkbu.strong == voco.strong == UNCHANGED
    assert (voco.size, voco.batch, voco.epochs) == ((64, 384, 384), 4, 100)


def test_a_short_list_is_repeated_to_an_epoch_of_512(trained, phantom):
    config = dataclasses.replace(CONFIG, unimiss=dataclasses.replace(RECIPE, least=512))
    task = VolumeTuning(trained, phantom, "ct", config)
    labels = np.zeros((200, 1))
    rows = task.draw_repeated(labels, 1.0, seed=0)
    assert np.bincount(rows).tolist() == [3] * 200, "as np.ceil(512 / 200) times the list"
    assert len(task.draw_repeated(labels, 0.1, seed=0)) == 26 * 20


def test_hkbu_s_volumes_are_standardised_and_cut(trained, phantom):
    config = dataclasses.replace(
        CONFIG, protocol="hkbu", hkbu=dataclasses.replace(ProbeConfig().hkbu, size=(8, 32, 32))
    )
    tokens = VolumeTuning(trained, phantom, "ct", config).sampler(phantom.source("ct", "test")[0])["tokens"]
    assert (tokens.mean(), tokens.std(ddof=1)) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "words"), [({"unimiss": dataclasses.replace(RECIPE, size=(9, 32, 32))}, "does not fit this checkpoint")]
)
def test_mistakes_are_named(trained, phantom, change, words):
    with pytest.raises(UserError, match=words):
        probe.evaluate(trained, phantom, dataclasses.replace(CONFIG, **change))


def test_a_protocol_names_the_way_of_tuning_that_it_needs():
    with pytest.raises(ValueError, match=r"protocol=hkbu is that of a fine-tuned classifier: set config\.tune=full"):
        ProbeConfig(protocol="hkbu")
    with pytest.raises(ValueError, match="window_hu"):
        VolumesConfig(window_hu=(5.0, 5.0))
