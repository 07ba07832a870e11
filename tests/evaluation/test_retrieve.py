"""The retrieval job: every way of asking, for both encoders, and the warning about inverted prompts."""

import json
import pathlib
import types

import numpy as np
import pytest

from unimedi_jax.config.jobs import RetrieveConfig
from unimedi_jax.evaluation import downstream, results, retrieve
from unimedi_jax.inference import features
from unimedi_jax.input import records
from unimedi_jax.metrics import findings, gap, retrieval


def test_every_way_of_asking(trained, phantom):
    rows = retrieve.evaluate(trained, [phantom], RetrieveConfig(untrained=False, rows=4, resamples=5))
    value = {(row.task, row.modality, row.metric): row.value for row in rows}
    tasks = (retrieve.REPORTS, retrieve.PRECISION, retrieve.ZEROSHOT, retrieve.PROMPTS, retrieve.ACROSS)
    for modality, patients in (("xray", 4), ("ct", 2)):
        assert {task for task, kind, _ in value if kind == modality} == set(tasks)
        assert value[retrieve.REPORTS, modality, "pairs"] == patients
        assert 0 <= value[retrieve.REPORTS, modality, "i2t_r1"] <= 1
    assert {"xray_ct/distance", "xray_xray_report/accuracy", "images/separation"} <= {
        metric for task, _, metric in value if task == retrieve.GAP
    }
    assert value[retrieve.ACROSS, "xray", "queries"] == value[retrieve.ACROSS, "ct", "candidates"]


def test_inverted_prompts_are_named():
    def row(metric, value, encoder="trained"):
        return results.Result(retrieve.ZEROSHOT, "mine", "ct", encoder, metric, value)

    rows = [row("auroc/effusion", 0.2), row("auroc/macro", 0.2), row("auroc/nodule", 0.6)]
    rows += [row("auroc/nodule", 0.1, "untrained"), row("auroc/mass", float("nan")), row("auprc/mass", 0.1)]
    rows += [row("auroc/rare", 0.1)]
    cases = {"effusion": (10, 30), "nodule": (20, 20), "mass": (0, 40), "rare": (9, 31)}
    for finding, (positives, negatives) in cases.items():
        rows += [row(f"positives/{finding}", positives), row(f"negatives/{finding}", negatives)]
    (warning,) = retrieve.inverted(rows)  # of nine cases an AUROC says nothing
    assert "effusion" in warning
    assert "0.20" in warning


def test_embedded_prompts_are_those_of_single_sentences(trained) -> None:
    """In one pass, whatever the numbers of sentences; a label that nothing denies has no rows."""
    pairs = {"a": {"positive": ["nodule", "mass"], "negative": []}, "b": {"positive": ["x"], "negative": ["no x"]}}
    embedder = trained.embedder(rows=2)
    settings = (embedder, trained.variables, trained.tokenizer)
    contract = {"labels": ["a", "b"], "prompts": pairs}
    positive, negative = features.embed_prompts(*settings, contract, 16)
    assert [len(z) for z in (*positive, *negative)] == [2, 1, 0, 1]
    alone = features.embed_reports(*settings, ["no x"], 16)
    np.testing.assert_allclose(negative[1], alone, atol=1e-6)
    assert features.embed_prompts(*settings, {"labels": ["a", "c"], "prompts": pairs}, 16) is None
    assert features.embed_prompts(*settings, {"labels": [], "prompts": {}}, 16) is None


def test_a_job_takes_prompts_and_score(trained, phantom, tmp_path) -> None:
    """Swapping a finding's pair turns its score by denials alone, and its AUROC, round."""
    labels = phantom.contract["labels"]
    own = {side: phantom.contract["prompts"][labels[0]][side] for side in ("positive", "negative")}
    swapped = {labels[0]: {"positive": own["negative"], "negative": own["positive"]}}
    file = tmp_path / "own.json"
    file.write_text(json.dumps(swapped))

    def auroc(**changes) -> dict[str, float]:
        config = RetrieveConfig(untrained=False, rows=4, resamples=0, **changes)
        rows = retrieve.evaluate(trained, [phantom], config)
        return {row.metric: row.value for row in rows if (row.task, row.modality) == (retrieve.ZEROSHOT, "xray")}

    before, after = auroc(score="difference"), auroc(score="difference", prompts=str(file))
    key = f"auroc/{labels[0]}"
    assert after[key] == pytest.approx(1 - before[key]) or np.isnan(before[key])
    others = [f"auroc/{label}" for label in labels[1:]]
    np.testing.assert_array_equal([before[name] for name in others], [after[name] for name in others])


def test_films_of_one_set_and_scans_of_another_are_measured_together() -> None:
    """As by hand from the embeddings, with the findings joined by name: the sets list them in another order."""
    rng = np.random.default_rng(0)

    def split(names: tuple[str, ...], n: int) -> features.EmbeddedSplit:
        z = rng.normal(size=(n, 5)).astype(np.float32)
        labels = np.eye(len(names) + 1, dtype=np.float32)[rng.integers(0, len(names) + 1, n), : len(names)]
        return features.EmbeddedSplit(z, z, None, labels, ("",) * n, names=names)

    films, scans = split(("nodule", "mass"), 30), split(("mass", "nodule"), 20)
    sets = [records.RecordSet(name, pathlib.Path(name), {}) for name in ("films", "scans")]
    embedded = {("films", "xray"): films, ("scans", "ct"): scans}
    network = types.SimpleNamespace(use_slices=lambda _: True)
    task = retrieve.Retrieval(network, RetrieveConfig(resamples=0), None, "trained", embedded)
    part = downstream.Part()
    task.of_pair(*sets, part)
    value = {(row.task, row.data, row.modality, row.metric): row.value for row in part.rows}
    order = np.array([1, 0, 2])
    own, other = findings.single(films.labels), order[findings.single(scans.labels)]
    by_hand = retrieval.by_finding(films.z, scans.z, own, other)
    assert value[retrieve.ACROSS, "films+scans", "xray", "p5"] == by_hand["p5"]
    back = retrieval.by_finding(scans.z, films.z, other, own)
    assert value[retrieve.ACROSS, "scans+films", "ct", "hit5"] == back["hit5"]
    assert value[retrieve.GAP, "films+scans", "", "xray_ct/distance"] == gap.modality_gap(films.z, scans.z).distance
    assert {row.cases for row in part.rows} == {30, 20, 50}
