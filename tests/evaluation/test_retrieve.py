"""The retrieval job: every way of asking, for both encoders, and the warning about inverted prompts."""

from unimedi_jax.config.jobs import RetrieveConfig
from unimedi_jax.evaluation import results, retrieve


def test_every_way_of_asking(trained, phantom):
    rows = retrieve.evaluate(trained, phantom, RetrieveConfig(untrained=False, rows=4, resamples=5))
    value = {(row.task, row.modality, row.metric): row.value for row in rows}
    tasks = (retrieve.REPORTS, retrieve.PRECISION, retrieve.ZEROSHOT, retrieve.ACROSS)
    for modality, patients in (("xray", 4), ("ct", 2)):
        assert {task for task, kind, _ in value if kind == modality} == set(tasks)
        assert value[retrieve.REPORTS, modality, "pairs"] == patients
        assert 0 <= value[retrieve.REPORTS, modality, "i2t_r1"] <= 1
    assert value[retrieve.ACROSS, "xray", "queries"] == value[retrieve.ACROSS, "ct", "candidates"]


def test_inverted_prompts_are_named():
    def row(metric, value, encoder="trained"):
        return results.Result(retrieve.ZEROSHOT, "mine", "ct", encoder, metric, value)

    rows = [row("auroc/effusion", 0.2), row("auroc/macro", 0.2), row("auroc/nodule", 0.6)]
    rows += [row("auroc/nodule", 0.1, "untrained"), row("auroc/mass", float("nan")), row("auprc/mass", 0.1)]
    (warning,) = retrieve.inverted(rows)
    assert "effusion" in warning
    assert "0.20" in warning
