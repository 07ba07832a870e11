"""Intervals of every job are over patients: a set with three pictures of each, and what the jobs resample."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from tests.evaluation.test_detect import CONFIG as DETECT
from tests.evaluation.test_segment import CONFIG as SEGMENT
from unimedi_jax.config.jobs import EvaluateConfig, ProbeConfig, RetrieveConfig
from unimedi_jax.evaluation import detect, hit_rates, probe, retrieve, segment
from unimedi_jax.evaluation.downstream import Outputs
from unimedi_jax.input import records
from unimedi_jax.metrics import bootstrap

PICTURES = 12  # of four patients
PATIENTS = [f"patient {row // 3}" for row in range(PICTURES)]


@dataclasses.dataclass(frozen=True)
class Renamed(Sequence):
    """Records as three of each patient."""

    rows: Sequence

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, index: int) -> dict:
        if index >= PICTURES:
            raise IndexError(index)
        record = self.rows[index]
        return record | ({"patient": PATIENTS[index].encode()} if "patient" in record else {})


class Threes(records.RecordSet):
    """The training pictures of a set, twelve of them, as the test pictures of four patients."""

    def size(self, modality, split):
        return PICTURES if split == "test" else super().size(modality, split)

    def source(self, modality, split, fields=None):
        if split != "test":
            return super().source(modality, split, fields)
        return Renamed(super().source(modality, "train", fields))


@pytest.fixture
def threes(phantom) -> Threes:
    return Threes(phantom.name, phantom.folder, phantom.contract)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The patients of all that is resampled."""
    seen, groups = [], bootstrap.groups
    monkeypatch.setattr(bootstrap, "groups", lambda n, patients: seen.append(patients) or groups(n, patients))
    return seen


def test_an_interval_of_the_probe_is_that_of_whole_patients(trained, threes):
    config = ProbeConfig(modality="xray", untrained=False, shares=(1.0,), seeds=(0,), resamples=40, rows=4)
    outputs = Outputs(detailed=True)
    rows = {row.metric: row for row in probe.evaluate(trained, threes, config, outputs)}
    names = [name.removeprefix("label:") for name in outputs.cases[0] if name.startswith("label:")]
    label, score = (
        np.array([[case[f"{kind}:{name}"] for name in names] for case in outputs.cases])
        for kind in ("label", "probability")
    )
    both = [column for column in range(len(names)) if 0 < label[:, column].sum() < PICTURES]
    accuracies, areas = [], []
    for patients in np.random.default_rng(0).integers(0, 4, size=(40, 4)):
        rows_of = np.concatenate([3 * patient + np.arange(3) for patient in patients])
        accuracies.append(((score[rows_of] >= 0.5) == (label[rows_of] == 1)).mean())
        areas.append(all(0 < label[rows_of, column].sum() < PICTURES for column in both))
    expected = np.percentile(accuracies, [2.5, 97.5])
    np.testing.assert_allclose([rows["accuracy/macro"].low, rows["accuracy/macro"].high], expected, atol=1e-9)
    assert np.isnan(rows["auroc/macro"].low) == (np.mean(areas) < bootstrap.DEFINED)


@pytest.mark.parametrize(
    ("job", "config"),
    [
        (probe.evaluate, ProbeConfig(untrained=False, shares=(1.0,), seeds=(0,), resamples=5, rows=4)),
        (hit_rates.evaluate, EvaluateConfig(untrained=False, resamples=5, rows=4)),
        (segment.evaluate, dataclasses.replace(SEGMENT, limit=PICTURES)),
        (detect.evaluate, dataclasses.replace(DETECT, limit=PICTURES)),
    ],
    ids=["probe", "slices", "segment", "detect"],
)
def test_jobs_resample_patients(trained, threes, drawn, job, config):
    job(trained, threes, config)
    assert drawn
    assert all(patients is not None and set(patients) <= set(PATIENTS) for patients in drawn)
    # Slices: CTs without a lesion are left out.
    assert any(list(patients) == PATIENTS or job is hit_rates.evaluate for patients in drawn)
    assert any(len(set(patients)) < len(patients) for patients in drawn)


def test_retrieval_resamples_patients_of_queries(trained, threes, drawn):
    retrieve.evaluate(trained, [threes], RetrieveConfig(untrained=False, rows=4, resamples=5))
    assert all(patients is not None and set(patients) <= set(PATIENTS) for patients in drawn)
    assert sum(list(patients) == PATIENTS for patients in drawn) >= 2, "reports and prompts of X-rays and CTs"
