"""Retrieval and zero-shot: reports for images and images for reports, CTs for X-rays, findings from prompts."""

import collections
import dataclasses
import functools
import itertools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from data.errors import UserError
from unimedi_jax.config.jobs import EvaluateConfig, RetrieveConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import evaluator, results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part, begin
from unimedi_jax.inference import features, pretrained, prompts
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import places, records
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import auroc, bootstrap, classification, findings, operating_point, retrieval, zeroshot

LOG = logging.getLogger(__name__)
METRICS = ("i2t_r5", "t2i_r5", "chance_r5", "p5", "chance_p5", "auroc/macro10")
REPORTS, ACROSS, PRECISION, ZEROSHOT = "report retrieval", "retrieval by finding", "precision by finding", "zero-shot"
ONE_OF = "zero-shot, one of the classes"  # CheXpert 5x200's five-way accuracy
PROMPTS = "prompts on reports"  # zero-shot classification of the reports themselves: what the prompts can give at best
GAP = "modality gap"
OTHER = {"xray": "ct", "ct": "xray"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Everything of `configs/retrieve.py`; writes `results.csv` into `workdir`, prints a table and the warnings."""
    chosen = typed(RetrieveConfig, config)
    trained = pretrained.load(chosen.checkpoint, chosen.network)
    sets = [records.open_set(chosen.data_dir, name) for name in places.set_names(chosen.data)]
    if not sets:
        raise UserError("config.data names no set: give built sets, comma-separated")
    outputs = begin(trained, workdir, chosen, sets)
    trials.check_leaks(trained, sets, chosen)
    rows = evaluate(trained, sets, chosen, outputs)
    results.publish(rows, METRICS, outputs.workdir, trained)
    outputs.finish()
    for warning in inverted(rows):
        print(f"warning: {warning}")


def evaluate(
    trained: Pretrained,
    sets: Sequence[RecordSet],
    config: RetrieveConfig | EvaluateConfig,
    outputs: Outputs | None = None,
) -> list[results.Result]:
    """All rows of the sets' test patients: report retrieval both ways, equal reports being right answers; X-ray to CT
    and back by finding; precision of reports by finding; zero-shot classification from each set's prompts; the gap.
    Of studies with several pictures what one modality allows also by study, the mean of their pictures.

    X-rays of one set and CTs of another are measured as those of one set are; `data` then names both, the set of the
    queries first, as in "films+scans". Each set, and each such pair, is a part of `outputs` with each encoder.

    Raises:
        UserError: no set has test records that can be measured.
    """
    trained.check_reports()
    outputs, before = outputs or Outputs(), len(outputs.rows) if outputs else 0
    embedder, left = trained.embedder(rows=config.rows, ct_slices=config.ct_slices), list(sets)
    for encoder in trials.encoders(config):
        task, facts = Retrieval(trained, config, embedder, encoder), {"task": "retrieve", "encoder": encoder}
        for one in tuple(left):
            try:
                asked = prompts.of_set(config.prompts, one.contract)
                outputs.part(functools.partial(task.of_set, one), config, [one], **facts, prompts=asked)
            except UserError as error:
                if len(sets) == 1:
                    raise
                LOG.warning("%s, retrieve: left out: %s", one.name, error)
                left.remove(one)
        for xrays, cts in itertools.permutations(left, 2) if len(trained.reads) > 1 else ():
            if xrays.size("xray", "test") and cts.size("ct", "test"):
                fill = functools.partial(task.of_pair, xrays, cts)
                outputs.part(fill, config, [xrays, cts], **facts, xrays=xrays.name)
    if not left:
        raise UserError(f"nothing could be measured on {', '.join(one.name for one in sets)}: see the lines above")
    return outputs.rows[before:]


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The measurements with one encoder; every modality of every set is embedded once."""

    trained: Pretrained
    config: RetrieveConfig | EvaluateConfig
    embedder: features.Embedder
    encoder: str
    embedded: dict[tuple[str, str], features.EmbeddedSplit] = dataclasses.field(default_factory=dict)

    def embed(self, dataset: RecordSet, modality: str) -> features.EmbeddedSplit:
        """The test records of a modality of a set."""
        key = (dataset.name, modality)
        if key not in self.embedded:
            self.trained.check(dataset, (modality,))
            sampler = self.trained.sampler(modality, keep=("report", "labels", "patient", "study"))
            variables = self.trained.encoder(self.encoder)
            self.embedded[key] = features.embed(self.embedder, variables, dataset, sampler, "test")
        return self.embedded[key]

    def of_set(self, dataset: RecordSet, part: Part) -> None:
        """Everything that the modalities of one set allow."""
        modalities = trials.modalities(self.trained, dataset, splits=("test",))
        embedded = {modality: self.embed(dataset, modality) for modality in modalities}
        for modality, own in embedded.items():
            scalars = self._aligned(dataset, own)
            if OTHER[modality] in embedded and own.names:
                scalars[ACROSS] = self._across(own, embedded[OTHER[modality]])
            for task, values in scalars.items():
                part.rows += self._rows(task, values, dataset.name, modality, own)
            if (pooled := own.by_study) is not None:
                for task, values in self._aligned(dataset, pooled).items():
                    part.rows += self._rows(f"{task}{trials.BY_STUDY}", values, dataset.name, modality, pooled)
        silent = [modality for modality, own in embedded.items() if not any(own.reports)]
        embedded |= {modality: dataclasses.replace(embedded[modality], z_report=None) for modality in silent}
        if len(embedded) > len(silent) or len(embedded) > 1:  # two clouds at least
            part.rows += self._rows(GAP, evaluator.gaps(embedded), dataset.name, "", *embedded.values())

    def of_pair(self, xrays: RecordSet, cts: RecordSet, part: Part) -> None:
        """X-rays of one set and CTs of another."""
        names, own = (xrays.name, cts.name), {"xray": self.embed(xrays, "xray"), "ct": self.embed(cts, "ct")}
        for modality, data in (("xray", names), ("ct", names[::-1])):
            values = self._across(own[modality], own[OTHER[modality]])
            part.rows += self._rows(ACROSS, values, "+".join(data), modality, own[modality])
        part.rows += self._rows(GAP, evaluator.image_gaps(own), "+".join(names), "", *own.values())

    def _rows(
        self, task: str, scalars: dict[str, float], data: str, modality: str, *parts: features.EmbeddedSplit
    ) -> list[results.Result]:
        shared = dict(task=task, data=data, modality=modality, encoder=self.encoder)
        shared["ct_slices"] = None if modality == "xray" else self.trained.use_slices(self.config.ct_slices)
        return results.of(scalars, cases=sum(len(part.z) for part in parts), **shared)

    def _aligned(self, dataset: RecordSet, part: features.EmbeddedSplit) -> dict[str, dict[str, float]]:
        """What images and their reports, or prompts, have to do with each other, by task."""
        scalars, names = {}, dataset.contract["labels"]
        drawn = {"resamples": self.config.resamples, "patients": part.patients}
        if any(part.reports):
            scalars[REPORTS] = retrieval.recall(part.z, part.z_report, part.reports, **drawn)
            if names:
                scalars[PRECISION] = _precision(part, self.config.each, self.config.resamples)
        asked = {**dataset.contract, "prompts": prompts.of_set(self.config.prompts, dataset.contract)}
        words, length = self.trained.tokenizer, self.trained.report_length
        embedded = features.embed_prompts(self.embedder, self.trained.encoder(self.encoder), words, asked, length)
        if embedded:
            for task, z in ((ZEROSHOT, part.z), *(((PROMPTS, part.z_report),) if any(part.reports) else ())):
                # A score of 0 is undecided, as a probability of a half is.
                scores = zeroshot.scores(z, *embedded, self.config.score) / (2 * zeroshot.LARGEST) + 0.5
                scalars[task] = classification.measure(scores, part.labels, names, **drawn)
                if self.config.prompts == "ct_clip":
                    scalars[task] |= operating_point.measure(scores, part.labels)
            # A few cases may have one finding each by chance.
            if len(part.labels) >= auroc.FEWEST and classification.exclusive(part.labels):
                scalars[ONE_OF] = _one_of(part, embedded, names, drawn)
        return scalars

    def _across(self, query: features.EmbeddedSplit, candidate: features.EmbeddedSplit) -> dict[str, float]:
        """Images of the other modality for a patient with the same only finding, or none, as the query."""
        own = findings.joined([query.labels, candidate.labels], [query.names, candidate.names])
        drawn = {"resamples": self.config.resamples, "patients": query.patients}
        return retrieval.by_finding(query.z, candidate.z, *own, **drawn)


def inverted(rows: Sequence[results.Result]) -> list[str]:
    """A sentence for every finding with cases enough whose zero-shot AUROC is below 0.4 with the trained encoder."""
    ours = [row for row in rows if (row.task, row.encoder) == (ZEROSHOT, "trained")]
    counts: dict[tuple, float] = collections.defaultdict(lambda: float("inf"))
    for row in ours:
        side, _, finding = row.metric.partition("/")
        if side in ("positives", "negatives"):
            place = (row.data, row.modality, finding)
            counts[place] = min(counts[place], row.value)
    return [
        f"{row.data}, {row.modality}: zero-shot AUROC of {finding} is {row.value:.2f}: "
        "its prompt pair may be the wrong way round"
        for row in ours
        for kind, _, finding in [row.metric.partition("/")]
        if kind == "auroc"
        and counts.get((row.data, row.modality, finding), 0) >= auroc.FEWEST
        and row.value < auroc.INVERTED_BELOW
    ]


def _precision(part: features.EmbeddedSplit, each: int, resamples: int) -> dict[str, float]:
    """Precision of reports among at most `each` patients of each finding, who have no other (CheXpert 5x200)."""
    finding = findings.single(part.labels)
    finding[finding == part.labels.shape[1]] = -1  # 5x200 holds no normal X-rays
    rows = retrieval.balanced(finding, each)
    drawn = {"resamples": resamples, "patients": bootstrap.chosen(part.patients, rows)}
    return retrieval.by_finding(part.z[rows], part.z_report[rows], finding[rows], finding[rows], **drawn)


def _one_of(
    part: features.EmbeddedSplit, prompts: tuple[list, list], names: Sequence[str], drawn: Mapping[str, Any]
) -> dict[str, float]:
    """Accuracy of the class whose prompts are most similar, where every case has exactly one."""
    similarity = zeroshot.scores(part.z, *prompts, "others")  # ranks the classes of a case as the similarities do
    scores = similarity / (2 * zeroshot.LARGEST) + 0.5
    measured = classification.measure(scores, part.labels, names, one_of=True, **drawn)
    return {name: value for name, value in measured.items() if name.startswith("accuracy/macro")} | {
        "accuracy/chance": 1 / len(names)
    }
