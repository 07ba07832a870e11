"""Retrieval and probes by study beside those by picture: the mean of a study's pictures, under names of their own."""

import numpy as np
import pytest

from tests.input.test_studies import open_views
from unimedi_jax.config.jobs import ProbeConfig, RetrieveConfig
from unimedi_jax.evaluation import evaluate, probe, retrieve
from unimedi_jax.evaluation.probe_outputs import TASKS
from unimedi_jax.evaluation.trials import PUBLISHED
from unimedi_jax.input import records
from unimedi_jax.metrics import retrieval

BY_STUDY = ", by study"


@pytest.fixture(scope="module")
def views() -> records.RecordSet:
    return open_views()


def test_retrieval_by_study_ranks_mean_pictures(trained, views) -> None:
    config = RetrieveConfig(untrained=False, rows=4, resamples=0)
    rows = retrieve.evaluate(trained, [views], config)
    value = {(row.task, row.modality, row.metric): row.value for row in rows}
    assert value[retrieve.REPORTS, "xray", "pairs"] == 6
    assert value[retrieve.REPORTS + BY_STUDY, "xray", "pairs"] == 3
    assert {task for task, kind, _ in value if kind == "xray" and task.endswith(BY_STUDY)} == {
        task + BY_STUDY for task in (retrieve.REPORTS, retrieve.PRECISION, retrieve.ZEROSHOT, retrieve.PROMPTS)
    }
    assert not any(task.endswith(BY_STUDY) for task, kind, _ in value if kind == "ct"), "one picture each"
    assert {task for task, *_ in value} <= evaluate.SHOWN.keys()

    task = retrieve.Retrieval(trained, config, trained.embedder(rows=4), "trained")
    split = task.embed(views, "xray")
    pictures = [split.z[i] / np.linalg.norm(split.z[i]) for i in range(6)]
    pooled = np.stack([(pictures[i] + pictures[i + 1]) / 2 for i in (0, 2, 4)])
    expected = retrieval.recall(pooled, split.z_report[::2], split.reports[::2])
    for name, number in expected.items():
        assert value[retrieve.REPORTS + BY_STUDY, "xray", name] == pytest.approx(number), name


@pytest.mark.parametrize("protocol", ["ours", "mgca"])
def test_probes_by_study_average_probabilities(trained, views, protocol) -> None:
    config = ProbeConfig(
        modality="xray", untrained=False, shares=(1.0,), seeds=(0,), resamples=0, rows=4, protocol=protocol
    )
    rows = probe.evaluate(trained, views, config)
    cases, task = {row.task: row.cases for row in rows}, TASKS["linear"] + PUBLISHED[protocol]
    assert cases == {task: 6, task + BY_STUDY: 3}
    plain = {row.metric for row in rows if row.task == task}
    assert plain == {row.metric for row in rows if row.task != task}
    assert cases.keys() <= evaluate.SHOWN.keys()
