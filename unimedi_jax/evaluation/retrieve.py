"""Retrieval and zero-shot: reports for images and images for reports, CTs for X-rays, findings from prompts."""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections

from unimedi_jax.evaluation import evaluator, opened, results
from unimedi_jax.inference import features
from unimedi_jax.input import records
from unimedi_jax.metrics import auroc, classification, retrieval, zeroshot
from unimedi_jax.typing import PyTree

METRICS = ("i2t_r5", "t2i_r5", "chance_r5", "p5", "chance_p5", "auroc/macro")
REPORTS, ACROSS, PRECISION, ZEROSHOT = "report retrieval", "retrieval by finding", "precision by finding", "zero-shot"
OTHER = {"xray": "ct", "ct": "xray"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Everything of `configs/retrieve.py`; writes `results.csv` into `workdir`, prints a table and the warnings."""
    trained = opened.open_run(config.checkpoint, network=config.network)
    rows = evaluate(
        trained,
        data_dir=config.data_dir,
        data=config.data,
        encoders=opened.encoders(config.untrained),
        ct_slices=config.ct_slices,
        each=config.each,
        rows=config.rows,
        resamples=config.resamples,
    )
    results.publish(rows, METRICS, workdir)
    for warning in inverted(rows):
        print(f"warning: {warning}")


def evaluate(
    trained: opened.Opened,
    *,
    data_dir: str | pathlib.Path,
    data: str,
    encoders: Sequence[str] = opened.ENCODERS,
    ct_slices: bool = True,
    each: int = 200,
    rows: int = 32,
    resamples: int = 1000,
) -> list[results.Result]:
    """All rows of a set's test patients: both directions with equal reports as right answers, X-ray to CT and back by
    finding, precision of reports by finding among at most `each` patients of each (CheXpert 5x200's rule: exactly one
    finding), and zero-shot classification from the set's prompts."""
    found = records.open_set(data_dir, data)
    kinds = opened.modalities(found, "", splits=("test",))
    trained.check(found, kinds)
    embedder = trained.embedder(rows=rows, ct_slices=ct_slices)
    table = []
    for name in encoders:
        variables = trained.variables(name)
        parts = {
            kind: features.embed(
                embedder, variables, found, trained.sampler(kind, keep=("report", "labels")), "test", limit=0
            )
            for kind in kinds
        }
        for kind, part in parts.items():
            place = dict(data=data, modality=kind, encoder=name, cases=len(part.z))
            if any(part.reports):
                table += results.of(
                    retrieval.recall(part.z, part.z_report, part.reports, resamples=resamples), task=REPORTS, **place
                )
                table += results.of(_precision(part, each, resamples), task=PRECISION, **place)
            table += results.of(_zeroshot(trained, found, embedder, variables, part, resamples), task=ZEROSHOT, **place)
            if OTHER[kind] in parts:
                table += results.of(_across(part, parts[OTHER[kind]], resamples), task=ACROSS, **place)
    return table


def inverted(rows: Sequence[results.Result]) -> list[str]:
    """A sentence for every finding whose zero-shot AUROC is below 0.4 with the trained encoder."""
    return [
        f"{row.data}, {row.modality}: zero-shot AUROC of {row.metric.removeprefix('auroc/')} is {row.value:.2f}: "
        "its prompt pair may be the wrong way round"
        for row in rows
        if row.task == ZEROSHOT
        and row.encoder == "trained"
        and row.metric.startswith("auroc/")
        and not row.metric.endswith("/macro")
        and row.value < auroc.INVERTED_BELOW
    ]


def _across(query: features.Split, candidate: features.Split, resamples: int) -> dict[str, float]:
    """Images of the other modality for a patient with the same only finding, or none, as the query."""
    return retrieval.by_finding(
        query.z,
        candidate.z,
        evaluator.single_finding(query.labels),
        evaluator.single_finding(candidate.labels),
        resamples=resamples,
    )


def _precision(part: features.Split, each: int, resamples: int) -> dict[str, float]:
    finding = evaluator.single_finding(part.labels)
    finding[finding == part.labels.shape[1]] = -1  # 5x200 holds no normal films
    rows = retrieval.balanced(finding, each)
    return retrieval.by_finding(part.z[rows], part.z_report[rows], finding[rows], finding[rows], resamples=resamples)


def _zeroshot(
    trained: opened.Opened,
    found: records.RecordSet,
    embedder: features.Embedder,
    variables: PyTree,
    part: features.Split,
    resamples: int,
) -> Mapping[str, float]:
    """AUROC, average precision and the share on the right side of equal similarity to both prompts."""
    labels = found.contract["labels"]
    prompts = [found.contract["prompts"].get(label) for label in labels]
    if not labels or not all(prompts):
        return {}
    length = trained.loaded.config["input"]["report_length"]
    sides = (
        [features.embed_reports(embedder, variables, trained.loaded.reports, pair[side], length) for pair in prompts]
        for side in ("positive", "negative")
    )
    # A difference of similarities of 0 is undecided, as a probability of a half is.
    scores = zeroshot.scores(part.z, *sides) / 4 + 0.5
    return classification.measure(scores, part.labels, labels, resamples=resamples)
