"""What embeddings alone allow to measure, and under which names."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.conftest import small_job
from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation import evaluator, probe
from unimedi_jax.inference import features
from unimedi_jax.metrics import gap, slices
from unimedi_jax.train.job import build_evaluator


def split(cls: np.ndarray, z: np.ndarray) -> features.EmbeddedSplit:
    """Cases with no finding and the only one in turn."""
    labels = (np.arange(len(z)) % 2).astype(np.float32)[:, None]
    return features.EmbeddedSplit(cls, z, None, labels, ("",) * len(z))


@pytest.fixture
def parts() -> dict[str, features.EmbeddedSplit]:
    """X-rays and CTs that an encoder keeps apart, and a projection that normalises each modality by itself."""
    rng = np.random.default_rng(0)
    xray, ct = rng.normal(size=(60, 8)) + 5 * np.eye(8)[0], rng.normal(size=(40, 8)) + 5 * np.eye(8)[1]
    return {name: split(x, x - x.mean(0)) for name, x in (("xray", xray), ("ct", ct))}


def test_gaps_are_measured_on_cls_too(parts) -> None:
    scalars = evaluator.image_gaps(parts)
    assert set(scalars) == {
        f"{cloud}{end}/{name}"
        for end in ("", "_cls")
        for cloud, names in (("xray_ct", ("distance", "accuracy")), ("images", ("separation",)))
        for name in names
    }
    assert scalars["xray_ct_cls/accuracy"] > 0.95
    assert scalars["xray_ct/accuracy"] < 0.65, "equalised by construction"
    for end, space in (("", "z"), ("_cls", "cls")):
        xray, ct = (getattr(part, space) for part in parts.values())
        assert scalars[f"xray_ct{end}/distance"] == gap.modality_gap(xray, ct).distance
        separation = gap.class_separation(np.concatenate([xray, ct]), np.arange(100) % 2)
        assert scalars[f"images{end}/separation"] == pytest.approx(separation)


def test_one_modality_has_no_gap(parts) -> None:
    assert set(evaluator.image_gaps({"ct": parts["ct"]})) == {"images/separation", "images_cls/separation"}


def test_a_run_measures_how_its_slices_are_chosen(checkpoint_dir, records_dir, trained, monkeypatch) -> None:
    """By hand from the embeddings: fixed layers of the validation CTs, on the test CTs, and of their scores alone."""
    monkeypatch.setattr(evaluator, "RESAMPLES", 0)
    measure = build_evaluator(small_job(records_dir, checkpoint_dir))
    measure = dataclasses.replace(measure, samplers={"ct": measure.samplers["ct"]})
    scalars, embedded = measure(trained.variables, "test", final=True)
    part, (_, val) = embedded["ct"], measure(trained.variables, "val")
    k, layers = measure.slices, part.slice_scores.shape[1]
    assert scalars["ct/slices/any/layer_share"] == slices.layer_share(part.slice_scores)
    fixed = slices.fixed_layers(val["ct"].lesions.any(axis=1), layers=layers, k=k)
    by_hand = slices.hit_rate(np.tile(fixed, (len(part.z), 1)), part.lesions.any(axis=1), k)
    assert scalars["ct/slices/any/fixed_rate"] == by_hand.measured
    assert scalars["ct/slices/any/random_rate"] == by_hand.random
    # The probe of a run is that of the probe job, under all labels.
    config = ProbeConfig(modality="ct", shares=(1.0,), seeds=(0,), untrained=False, rows=4, resamples=0)
    job = {row.metric: row.value for row in probe.evaluate(trained, measure.dataset, config)}
    for label in (*measure.dataset.contract["labels"], "macro"):
        assert scalars[f"ct/probe/{label}"] == pytest.approx(job[f"auroc/{label}"], abs=1e-6, nan_ok=True)
