"""Segmentation of organs or lesions: SETR-PUP on X-rays, UNETR on volumes, on a frozen or a fine-tuned encoder."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from data import progress
from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import FitConfig, SegmentConfig
from unimedi_jax.evaluation import dense_losses, downstream, draws, fit, heads, results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.segmenter import Segmenter, decide
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import dense, records, supervised
from unimedi_jax.metrics import segmentation
from unimedi_jax.typing import Array, Bool, Float, PyTree

METRICS = ("dice/mean", "hd95/mean", "nsd/mean")
TUNES = {"frozen": "frozen encoder", "full": "fine-tuned"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the decoders of `configs/segment.py`."""
    downstream.run(config, workdir, SegmentConfig, evaluate, METRICS)


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: SegmentConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """All rows of a set: each modality that has the target, way of tuning, encoder, share and seed.

    Each of these trials is a part of `outputs`, with the metrics of every test case and the head of `trials.main`.

    Raises:
        UserError: a setting is wrong, or the set has no annotated cases.
    """
    tunes, target = trials.tunes(config.tune, TUNES), config.target
    if target not in dense.TARGETS:
        raise UserError(f"config.target is one of {', '.join(dense.TARGETS)}, not {target!r}")
    field, place = dense.TARGETS[target], f"the set {dataset.name} in {dataset.folder}"
    if config.protocol == "mgca" and target == "organs":
        raise UserError("config.protocol=mgca segments one structure: set config.target=boxes (RSNA) or lesions (SIIM)")
    if field not in dataset.contract["truth"]:
        raise UserError(f"{place} has no {field}: choose another config.target")
    if config.protocol == "mgca":
        config = dataclasses.replace(config, modality="xray", seeds=(draws.PUBLISHED_SEED,))
    table, outputs = [], outputs or Outputs()
    for modality in trials.modalities(trained, dataset, config.modality):
        trained.check(dataset, (modality,))
        cases = {split: annotated(dataset, modality, split, config) for split in ("train", "val", "test")}
        if not cases["train"] or not cases["test"]:
            continue
        for tune in tunes:
            task = Task(trained, dataset, modality, tune, cases, config)
            for trial in trials.trials(config, len(cases["train"])):
                facts = dict(task=task.title, modality=modality, head=trial == trials.main(config))
                fill = functools.partial(_measure, task, trial)
                table += outputs.part(fill, config, [dataset], **facts, **trial._asdict())
    if not table:
        raise UserError(f"{place} has no annotated test cases for {target}, or {trials.TOO_FEW}")
    return table


def _measure(task: "Task", trial: Trial, part: Part) -> None:
    """Trains and tests the decoder of a trial."""
    config = task.config
    network = fit.train(task, trial, draws.of_protocol(config.protocol))
    values, present = _tested(task, network)
    scalars = segmentation.summarise(values, present, task.names, resamples=config.resamples)
    shared = dict(task=task.title, modality=task.modality, **trial._asdict())
    slices = False if task.modality == "ct" else None
    part.rows += results.of(scalars, data=task.dataset.name, cases=len(task.cases["test"]), ct_slices=slices, **shared)
    if part.detailed:
        _add_cases(part, task, values, shared)
    if part.detailed and trial == trials.main(config):
        part.heads.append(head(task, trial, network))


def task_name(target: str, tune: str, protocol: str = "ours", asked: rules.Rules = rules.EVERYTHING) -> str:
    """The task of the results for a target, a way of tuning, a protocol and what trains."""
    return f"segmentation of {target}, {TUNES[tune]}{trials.in_part(tune, asked)}{trials.PUBLISHED[protocol]}"


def organs(contract: Mapping[str, Any]) -> list[str]:
    """Names of the classes of the organ mask, from the contract's "0 none, 1 right lung, 2 left lung, ..."."""
    text = contract["records"]["organ_mask"]
    numbered = {int(number): name for number, name in re.findall(r"(\d+) ([^,]+)", text)}
    return [numbered[number] for number in range(1, max(numbered) + 1)]


def annotated(dataset: records.RecordSet, modality: str, split: str, config: SegmentConfig) -> list[int]:
    """Rows of a split whose target somebody has drawn, at most `config.limit` (0 = all)."""
    rows = list(range(dataset.size(modality, split)))
    if rows and config.target != "boxes":
        field = dense.TARGETS[config.target]
        masks = dataset.source(modality, split, (field,))
        with progress.shown(len(rows), f"masks of {split}") as tick:
            rows = [i for i in rows if not tick(1) and not (masks[i][field] == dense.UNANNOTATED).all()]
    return rows[: config.limit] if config.limit else rows


@dataclasses.dataclass(frozen=True)
class Task:
    """Segmentation of one set and modality, for `fit.train`."""

    pretrained: Pretrained
    dataset: records.RecordSet
    modality: str
    tune: str
    cases: Mapping[str, list[int]]  # annotated ones of each split
    config: SegmentConfig

    @property
    def name(self) -> str:
        return f"{self.modality}, {self.tune}"

    @property
    def title(self) -> str:
        """The task of the results."""
        return task_name(self.config.target, self.tune, self.config.protocol, self.trainable)

    @property
    def published(self) -> bool:
        """Whether this is MGCA's protocol."""
        return self.config.protocol == "mgca"

    @property
    def recipe(self) -> FitConfig:
        if self.published:
            return self.config.mgca
        return {"xray": self.config.xray, "ct": self.config.ct}[self.modality]

    @property
    def trainable(self) -> rules.Rules:
        return self.config.trainable if self.tune == "full" else rules.EVERYTHING

    @property
    def strata(self) -> Float[np.ndarray, "n 0"]:
        return np.zeros((len(self.cases["train"]), 0))

    @functools.cached_property
    def names(self) -> list[str]:
        """Of the structures 1, 2, ..."""
        target = self.config.target
        return organs(self.dataset.contract) if target == "organs" else [target.removesuffix("s").removesuffix("e")]

    @functools.cached_property
    def segmenter(self) -> Segmenter:
        """The network."""
        classes = len(self.names) + 1 if self.config.target == "organs" else 1
        sizes = self.config.setr_channels, self.config.unetr_features
        return Segmenter(self.pretrained, self.modality, classes, *sizes, self.windows)

    @property
    def windows(self) -> bool:
        """Whether CTs are predicted at the record's resolution."""
        return self.config.windows and self.modality == "ct"

    @property
    def sampler(self) -> dense.ToMask:
        size, patch = self.pretrained.size(self.modality), self.pretrained.patch(self.modality)
        return dense.ToMask(self.modality, self.config.target, size, patch, self.windows)

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        fields = ("image", "volume", "spacing_mm", dense.TARGETS[self.config.target])
        return self.dataset.source(self.modality, split, fields)

    def start(self, trial: Trial) -> Network:
        """Raises UserError where the decoder does not fit the encoder."""
        return self.segmenter.start(trial, frozen=self.tune == "frozen")

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        logits, stats = self.segmenter.logits(network, batch["tokens"], train=True)
        if logits.shape[-1] == 1:
            return dense_losses.binary(logits[..., 0], batch["mask"].astype(jnp.float32)), stats
        return dense_losses.exclusive(logits, batch["mask"]), stats

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the records' own grid."""
        return self.source("test")[0]["image" if self.modality == "xray" else "volume"].shape

    @functools.cached_property
    def predict(self) -> Callable[[Network, Array], Array]:
        """Classes on the record's grid, so that no metric depends on the network's; by MGCA's protocol on that one."""
        if self.published:
            return jax.jit(lambda network, tokens: decide(self.segmenter.logits(network, tokens)[0]))
        return jax.jit(lambda network, tokens: decide(self.segmenter.on_record(network, tokens, self.shape)))

    def masks(self, split: str, network: Network) -> Iterator[tuple[np.ndarray, np.ndarray, Sequence[float]]]:
        """Truth, predicted classes and spacing of each case of a split, on the record's own grid."""
        source, rows = self.source(split), self.cases[split]
        if self.windows:
            volumes, batch = (source[row]["volume"] for row in rows), self.recipe.batch
            predicted = (decide(self.segmenter.in_windows(network, volume, batch)) for volume in volumes)
        else:
            predicted = fit.predictions(self, split, network)
        for row, mask in zip(rows, predicted, strict=True):
            record = source[row]
            truth = self.sampler(record)["mask"] if self.published else dense.truth(record, self.config.target)
            yield truth, mask, record.get("spacing_mm", (1.0, 1.0))

    def score(self, network: Network) -> float:
        """Mean Dice; by MGCA's protocol minus the loss."""
        if self.published:
            return -self._loss_of_val(network)
        classes, cases = range(1, len(self.names) + 1), self.masks("val", network)
        return float(np.mean([segmentation.dice(truth == c, mask == c) for truth, mask, _ in cases for c in classes]))

    def _loss_of_val(self, network: Network) -> float:
        """The mean loss of whole batches, as MGCA's; one that is not full counts only where there is no other."""
        mesh, batch, rows = self.pretrained.mesh, self.recipe.batch, self.cases["val"]
        batches = list(supervised.evaluation(self.source("val"), self.sampler, batch, rows))
        whole = [part for part, real in batches if real == batch] or [part for part, _ in batches]
        return float(np.mean([self._loss_of_batch(network, sharding.put_batch(part, mesh)) for part in whole]))

    @functools.cached_property
    def _loss_of_batch(self) -> Callable[[Network, PyTree], Array]:
        def loss(network: Network, batch: PyTree) -> Array:
            logits, _ = self.segmenter.logits(network, batch["tokens"])
            return dense_losses.binary(logits[..., 0], batch["mask"].astype(jnp.float32))

        return jax.jit(loss)


def _tested(task: Task, network: Network) -> tuple[Float[np.ndarray, "n c 3"], Bool[np.ndarray, "n c"]]:
    """Dice, HD95 and NSD of every test case and structure, and which structures it has."""
    count, tolerance = len(task.names), task.config.tolerance
    cases = task.masks("test", network)
    measured = [segmentation.case(truth, mask, count, spacing, tolerance=tolerance) for truth, mask, spacing in cases]
    values, present = (np.stack(part) for part in zip(*measured, strict=True))
    return values, present


def _add_cases(part: Part, task: Task, values: Float[np.ndarray, "n c 3"], shared: Mapping[str, Any]) -> None:
    every = downstream.ids(task.dataset, task.modality)
    columns = {
        f"{kind}:{name}": values[:, number, index]
        for number, name in enumerate(task.names)
        for index, kind in enumerate(segmentation.KINDS)
    }
    part.add([every[row] for row in task.cases["test"]], columns, **shared)


def head(task: Task, trial: Trial, network: Network) -> heads.Head:
    """What is saved of a trained network."""
    settings = {
        name: getattr(task.segmenter, name) for name in ("classes", "setr_channels", "unetr_features", "windows")
    }
    facts = dict(names=task.names, target=task.config.target, **settings)
    made = heads.make("segment", task.tune, task.pretrained, task.dataset, task.modality, trial, **facts)
    return dataclasses.replace(made, arrays=heads.network_arrays(network))
