"""Retrieval and zero-shot: reports for images and images for reports, CTs for X-rays, findings from prompts."""

import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from unimedi_jax.config.jobs import EvaluateConfig, RetrieveConfig
from unimedi_jax.evaluation import downstream, evaluator, results, trials
from unimedi_jax.inference import features, prompts
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
from unimedi_jax.metrics import auroc, classification, operating_point, retrieval, zeroshot

METRICS = ("i2t_r5", "t2i_r5", "chance_r5", "p5", "chance_p5", "auroc/macro")
REPORTS, ACROSS, PRECISION, ZEROSHOT = "report retrieval", "retrieval by finding", "precision by finding", "zero-shot"
ONE_OF = "zero-shot, one of the classes"  # CheXpert 5x200's five-way accuracy
PROMPTS = "prompts on reports"  # zero-shot classification of the reports themselves: what the prompts can give at best
OTHER = {"xray": "ct", "ct": "xray"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Everything of `configs/retrieve.py`; writes `results.csv` into `workdir`, prints a table and the warnings."""
    rows = downstream.run(config, workdir, RetrieveConfig, evaluate, METRICS)
    for warning in inverted(rows):
        print(f"warning: {warning}")


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: RetrieveConfig | EvaluateConfig, _: Any = None
) -> list[results.Result]:
    """All rows of a set's test patients: report retrieval both ways, equal reports being right answers; X-ray to CT and
    back by finding; precision of reports by finding; zero-shot classification from the set's prompts."""
    trained.check_reports()
    modalities = trials.modalities(trained, dataset, splits=("test",))
    trained.check(dataset, modalities)
    embedder = trained.embedder(rows=config.rows, ct_slices=config.ct_slices)
    samplers = {modality: trained.sampler(modality, keep=("report", "labels")) for modality in modalities}
    words, length, contract = trained.tokenizer, trained.report_length, dataset.contract
    asked = {**contract, "prompts": prompts.of_set(config.prompts, contract)}
    table = []
    for encoder in trials.encoders(config):
        variables = trained.encoder(encoder)
        parts = {name: features.embed(embedder, variables, dataset, samplers[name], "test") for name in modalities}
        embedded = features.embed_prompts(embedder, variables, words, asked, length)
        for modality, part in parts.items():
            scalars = {}
            if any(part.reports):
                scalars[REPORTS] = retrieval.recall(part.z, part.z_report, part.reports, resamples=config.resamples)
                scalars[PRECISION] = _precision(part, config.each, config.resamples)
            if embedded:
                for task, z in ((ZEROSHOT, part.z), *(((PROMPTS, part.z_report),) if any(part.reports) else ())):
                    # A score of 0 is undecided, as a probability of a half is.
                    scores = zeroshot.scores(z, *embedded, config.score) / (2 * zeroshot.LARGEST) + 0.5
                    names = contract["labels"]
                    scalars[task] = classification.measure(scores, part.labels, names, resamples=config.resamples)
                    if config.prompts == "ct_clip":
                        scalars[task] |= operating_point.measure(scores, part.labels)
            if embedded and classification.exclusive(part.labels):
                scalars[ONE_OF] = _one_of(part, embedded, contract["labels"], config.resamples)
            if OTHER[modality] in parts:
                scalars[ACROSS] = _across(part, parts[OTHER[modality]], config.resamples)
            shared = dict(data=dataset.name, modality=modality, encoder=encoder, cases=len(part.z))
            shared["ct_slices"] = trained.use_slices(config.ct_slices) if modality == "ct" else None
            table += [row for task, values in scalars.items() for row in results.of(values, task=task, **shared)]
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


def _across(query: features.EmbeddedSplit, candidate: features.EmbeddedSplit, resamples: int) -> dict[str, float]:
    """Images of the other modality for a patient with the same only finding, or none, as the query."""
    findings = (evaluator.single_finding(part.labels) for part in (query, candidate))
    return retrieval.by_finding(query.z, candidate.z, *findings, resamples=resamples)


def _precision(part: features.EmbeddedSplit, each: int, resamples: int) -> dict[str, float]:
    """Precision of reports among at most `each` patients of each finding, who have no other (CheXpert 5x200)."""
    finding = evaluator.single_finding(part.labels)
    finding[finding == part.labels.shape[1]] = -1  # 5x200 holds no normal X-rays
    rows = retrieval.balanced(finding, each)
    return retrieval.by_finding(part.z[rows], part.z_report[rows], finding[rows], finding[rows], resamples=resamples)


def _one_of(
    part: features.EmbeddedSplit, prompts: tuple[list, list], names: Sequence[str], resamples: int
) -> dict[str, float]:
    """Accuracy of the class whose prompts are most similar, where every case has exactly one."""
    similarity = zeroshot.scores(part.z, *prompts, "others")  # ranks the classes of a case as the similarities do
    scores = similarity / (2 * zeroshot.LARGEST) + 0.5
    measured = classification.measure(scores, part.labels, names, one_of=True, resamples=resamples)
    return {name: value for name, value in measured.items() if name.startswith("accuracy/macro")} | {
        "accuracy/chance": 1 / len(names)
    }
