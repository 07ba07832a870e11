"""Every job embeds CTs as the run trained them, with the slices they choose or by their volume alone."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import ablate as ablate_configs
from tests.conftest import once
from tests.evaluation.conftest import save_run, small_job
from unimedi_jax.comparison import ablate
from unimedi_jax.config.jobs import EvaluateConfig, ProbeConfig, RetrieveConfig
from unimedi_jax.evaluation import downstream, evaluate, fine_tuning, network, probe, retrieve
from unimedi_jax.inference import embed, features, pretrained
from unimedi_jax.train.job import build_evaluator

SMALL = dict(untrained=False, rows=4, resamples=0)


@pytest.fixture(scope="module")
def contrast_dir(records_dir):
    """A run of ConVIRT, whose CTs are trained without slices though its network could choose some."""
    return once("contrast", lambda workdir: save_run(records_dir, workdir, "demo,convirt"))


@pytest.fixture(scope="module")
def contrast(contrast_dir) -> pretrained.Pretrained:
    return pretrained.load(contrast_dir)


@pytest.fixture(scope="module")
def expected(records_dir, contrast_dir, contrast) -> features.EmbeddedSplit:
    """The test CTs as the run's own evaluation embeds them."""
    job = small_job(records_dir, contrast_dir, "demo,convirt")
    _, embedded = build_evaluator(job)(contrast.variables, "test")
    return embedded["ct"]


def by_probe(trained, dataset):
    probe.evaluate(trained, dataset, ProbeConfig(modality="ct", shares=(1.0,), seeds=(0,), **SMALL))


def by_retrieve(trained, dataset):
    retrieve.evaluate(trained, [dataset], RetrieveConfig(**SMALL))


def by_ablate(trained, dataset):
    config = ablate_configs.get_config()
    config.data_dir, config.base.evals.rows = str(dataset.folder.parent), 4
    ablate._embedded({"ct": trained.path}, config)


def by_evaluate(trained, dataset):
    settings = EvaluateConfig(shares=(1.0,), seeds=(0,), **SMALL)
    evaluate.TASKS["probe"](trained, dataset, settings, downstream.Outputs())
    evaluate.TASKS["retrieve"](trained, [dataset], settings, downstream.Outputs())


@pytest.mark.parametrize("job", [by_probe, by_retrieve, by_ablate, by_evaluate])
def test_a_job_embeds_cts_as_the_evaluation_of_the_run_does(contrast, expected, phantom, monkeypatch, job):
    parts, plain = [], features.embed

    def recorded(embedder, variables, dataset, sampler, split, **settings):
        part = plain(embedder, variables, dataset, sampler, split, **settings)
        if (sampler.modality, split) == ("ct", "test"):
            parts.append(part)
        return part

    monkeypatch.setattr(features, "embed", recorded)
    job(contrast, phantom)
    assert parts
    for part in parts:
        np.testing.assert_allclose(part.cls, expected.cls, atol=1e-5)
        np.testing.assert_allclose(part.z, expected.z, atol=1e-5)


def test_so_does_the_embedding_of_files(contrast_dir, expected, phantom):
    model = embed.load(contrast_dir, rows=4)
    volumes = np.stack([record["volume"] for record in phantom.source("ct", "test", ("volume",))])
    np.testing.assert_allclose(model.features("ct", volumes).z, expected.z, atol=1e-5)


def test_so_does_fine_tuning(contrast, expected, phantom):
    tuning = fine_tuning.FineTuning(contrast, phantom, "ct", ProbeConfig(tune="full"))
    width = contrast.model.vision.width
    head = {"weights": jnp.eye(width), "bias": jnp.zeros(width)}
    sampler = contrast.sampler("ct")
    tokens = jnp.stack([sampler(record)["tokens"] for record in phantom.source("ct", "test")])
    logits = jax.jit(tuning.logits)(
        network.start(contrast, "trained", {"params": head}, frozen=False), {"tokens": tokens}
    )
    np.testing.assert_allclose(logits, expected.cls, atol=1e-5)


def test_a_setting_overrides_the_run(contrast, expected, phantom, caplog):
    """What was the default of most jobs: other embeddings than those that the run trained, and the log says so."""
    pretrained._log_ct_input.cache_clear()
    with caplog.at_level(logging.INFO, "unimedi_jax"):
        embedder = contrast.embedder(rows=4, ct_slices=True)
        contrast.embedder(rows=4, ct_slices=True)
    (line,) = caplog.messages
    assert "with the slices they choose, as ct_slices asks: the run was trained otherwise" in line
    sampler = contrast.sampler("ct", keep=("report", "labels"))
    part = features.embed(embedder, contrast.variables, phantom, sampler, "test", images_alone=True)
    assert np.abs(part.z - expected.z).max() > 0.01


@pytest.mark.parametrize(
    ("slices", "by_run", "setting", "used"),
    [
        (2, True, None, True),
        (2, False, None, False),
        (2, True, False, False),
        (2, False, True, True),
        (0, True, None, False),  # there are none to choose
        (0, True, True, False),
    ],
)
def test_what_a_setting_comes_to(contrast, slices, by_run, setting, used):
    model = contrast.model.clone(slices=slices)
    run = dataclasses.replace(contrast, model=model, config={**contrast.config, "evals": {"ct_slices": by_run}})
    assert run.use_slices(setting) is used
