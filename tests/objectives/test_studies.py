"""Pictures of one patient under one report are no negatives of each other, in no contrast of images with reports."""

import inspect

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import pretrain
from unimedi_jax import losses, sharding
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.models import towers
from unimedi_jax.objectives import alignment, gloria, medklip, siglip
from unimedi_jax.train.job import TrainStep, build_train_step

STUDY = np.array([7, 2, 7, -3, 2], np.int32)
WITH_REPORTS = ("one_encoder", "convirt", "clip", "mgca", "gloria", "aclip", "kad", "med_unic", "prior")


def step_and_batch(name: str, change: dict) -> tuple[TrainStep, dict]:
    """The step of a preset, and a batch as shapes whose samples have studies."""
    config = pretrain.get_config(f"demo,{name}")
    config.update(change)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step = build_train_step(typed(PretrainConfig, config), 200, mesh)
    where = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    one = jax.eval_shape(lambda: step.objective.example_batch(step.model, 64))
    batch = towers.example(one, dict(config.batch), where)
    for part in batch.values():
        part["study"] = jax.ShapeDtypeStruct(part["text"].shape[:1], jnp.int32, sharding=where)
    return step, batch


@pytest.mark.parametrize("name", WITH_REPORTS)
def test_every_contrast_with_reports_gets_the_studies(name: str, monkeypatch) -> None:
    step, batch = step_and_batch(name, {})
    contrastive, studies = losses.contrastive, []

    def recorded(*args, **kwargs):
        studies.append(inspect.signature(contrastive).bind(*args, **kwargs).arguments.get("report"))
        return contrastive(*args, **kwargs)

    monkeypatch.setattr(losses, "contrastive", recorded)
    jax.eval_shape(step.step, step.abstract, batch)
    images_alone = 1 if name == "med_unic" else 0  # an image and its own crop
    assert len(studies) > images_alone
    assert sum(study is None for study in studies) == images_alone
    assert all(study.shape == (64,) for study in studies if study is not None)


@pytest.mark.parametrize(
    ("name", "module", "contrast"),
    [("one_encoder", alignment, "sentence_contrast"), ("medklip", medklip, "mention_contrast")],
)
def test_so_does_every_contrast_of_their_parts(name: str, module, contrast: str, monkeypatch) -> None:
    step, batch = step_and_batch(name, {"objective": {"weight_local": 1.0}} if name == "one_encoder" else {})
    original, studies = getattr(module, contrast), []

    def recorded(*args):
        studies.append(args[-1])
        return original(*args)

    monkeypatch.setattr(module, contrast, recorded)
    jax.eval_shape(step.step, step.abstract, batch)
    assert [getattr(study, "shape", None) for study in studies] == [(64,)]


def test_siglip_takes_pictures_of_a_study_for_matches() -> None:
    z = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    expected = np.zeros(5)
    for i, x in enumerate(z[0]):
        for j, y in enumerate(z[1]):
            sign = 1 if STUDY[i] == STUDY[j] else -1
            expected[i] += np.log1p(np.exp(-sign * (7.0 * np.float64(x @ y) - 3.0)))
    actual = siglip.sigmoid(*map(jnp.asarray, z), 7.0, -3.0, study=jnp.asarray(STUDY))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_glorias_local_contrast_leaves_them_out() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    expected = np.zeros((2, 5))
    for row, table in enumerate((logits, logits.T)):
        for i in range(5):
            counted = [j for j in range(5) if j == i or STUDY[j] != STUDY[i]]
            expected[row, i] = np.log(np.exp(np.float64(table[i, counted])).sum()) - table[i, i]
    np.testing.assert_allclose(gloria.contrast(jnp.asarray(logits), jnp.asarray(STUDY)), expected, rtol=1e-5)


def test_sentences_and_mentions_leave_them_out() -> None:
    """L_local and MedKLIP's contrast: as that of a batch in which a sample's own study is there once."""
    rng = np.random.default_rng(2)
    logits, real = rng.standard_normal((5, 5, 3)).astype(np.float32), rng.random((5, 3)) < 0.7
    answers, mentions = (rng.standard_normal((5, 4, 8)).astype(np.float32) for _ in range(2))
    present = rng.random((5, 4)) < 0.6
    local = alignment.sentence_contrast(jnp.asarray(logits), jnp.asarray(real), jnp.asarray(STUDY))
    mention = medklip.mention_contrast(*map(jnp.asarray, (answers, mentions, present)), 0.5, jnp.asarray(STUDY))
    for i in range(5):
        rest = np.array([i, *(j for j in range(5) if STUDY[j] != STUDY[i])])
        alone = alignment.sentence_contrast(jnp.asarray(logits[np.ix_(rest, rest)]), jnp.asarray(real[rest]))
        np.testing.assert_allclose(local[i], alone[0], rtol=1e-5)
        alone = medklip.mention_contrast(*(jnp.asarray(x[rest]) for x in (answers, mentions, present)), 0.5)
        np.testing.assert_allclose(mention[i], alone[0], rtol=1e-5)


@pytest.mark.usefixtures("eight_devices")
def test_all_pictures_of_a_study_are_positives_on_any_mesh() -> None:
    """Against loops over pairs: a picture's target is uniform over the reports of its study, which are no negatives."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2, 16, 8)).astype(np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    study, temperature = rng.integers(-4, 4, 16).astype(np.int32), 0.2
    expected = np.zeros((2, 16))
    for way, (own, others) in enumerate((z, z[::-1])):
        for i in range(16):
            scores = [float(np.float64(own[i]) @ np.float64(other)) / temperature for other in others]
            everything = np.log(sum(np.exp(scores)))
            positives = [everything - scores[j] for j in range(16) if study[j] == study[i]]
            expected[way, i] = sum(positives) / len(positives)
    mesh = sharding.make_mesh(4, 2)
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh):
        for chunk in (0, 8):
            loss = jax.jit(lambda x, y, s, chunk=chunk: losses.contrastive(x, y, temperature, s, chunk))
            spread = loss(*(jax.device_put(x, rows) for x in (*z, study)))
            np.testing.assert_allclose(spread, expected, rtol=1e-4)
