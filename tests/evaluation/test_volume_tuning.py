"""Classifiers of CTs fine-tuned at a size of their own, by the published recipes."""

import dataclasses

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import ProbeConfig, VolumesConfig
from unimedi_jax.evaluation import probe, trials
from unimedi_jax.evaluation.volume_tuning import VolumeTuning

RECIPE = VolumesConfig(size=(8, 32, 32), batch=4, epochs=1, lr=1e-2)
CONFIG = ProbeConfig(
    tune="full", protocol="unimiss", unimiss=RECIPE, shares=(1.0,), seeds=(0,), untrained=False, resamples=5
)


def test_rows_have_sensitivity_and_specificity_under_a_name_of_their_own(trained, phantom):
    rows = probe.evaluate(trained, phantom, CONFIG)
    assert {(row.task, row.modality) for row in rows} == {("full fine-tuning, UniMiSS's protocol", "ct")}
    values = {row.metric: row.value for row in rows}
    assert {"accuracy/macro", "auroc/macro", "auprc/macro", *probe.RATES} <= set(values)


def test_the_whole_network_learns_at_the_size_asked_for(trained, phantom):
    task = VolumeTuning(trained, phantom, "ct", CONFIG)
    network = task.start(trials.Trial("trained"))
    assert {"encoder", "decoder"} == set(network.params)
    sample = task.sampler(task.source("test")[0])
    assert sample["tokens"].shape == RECIPE.size
    assert np.isfinite(task.score(network))


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
