"""Segmentation of organs or lesions: SETR-PUP on X-rays, UNETR on volumes, on a frozen or a fine-tuned encoder."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import IN_CROPS, SegmentConfig
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import dense_losses, downstream, draws, fit, heads, results, trials
from unimedi_jax.evaluation.crop_task import CropTask
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.segment_cases import TUNES, annotated, structures, task_name
from unimedi_jax.evaluation.segmenter import Segmenter, decide
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import dense, records, supervised
from unimedi_jax.metrics import segmentation
from unimedi_jax.typing import Array, Bool, Float, PyTree

METRICS = ("dice/mean", "hd95/mean", "nsd/mean")
MASKS = "masks"  # folder of predictions in a job's workdir
# What makes up the network of a saved head.
FACTS = ("classes", "setr_channels", "unetr_features", "unetr_norm", "windows")
CROP_FACTS = ("classes", "features", "norm", "size", "window_hu", "overlap")


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
    in_crops = config.protocol in IN_CROPS
    if target not in dense.TARGETS:
        raise UserError(f"config.target must be one of {', '.join(dense.TARGETS)}, not {target!r}")
    field, place = dense.TARGETS[target], f"the set {dataset.name} in {dataset.folder}"
    if config.protocol == "mgca" and target == "organs":
        raise UserError("config.protocol=mgca segments one structure: set config.target=boxes (RSNA) or lesions (SIIM)")
    if in_crops and target == "boxes":
        raise UserError(f"config.protocol={config.protocol} segments CTs: set config.target=organs or lesions")
    if field not in dataset.contract["truth"]:
        raise UserError(f"{place} has no {field}: choose another config.target")
    if in_crops:
        config = dataclasses.replace(config, modality="ct")
    if config.protocol == "mgca":
        config = dataclasses.replace(config, modality="xray", seeds=(draws.PUBLISHED_SEED,))
    table, outputs, counts = [], outputs or Outputs(), {}
    for modality in trials.modalities(trained, dataset, config.modality):
        if not in_crops:  # whose task compares what crops depend on
            trained.check(dataset, (modality,))
        cases = {split: annotated(dataset, modality, split, config) for split in ("train", "val", "test")}
        counts[modality] = len(cases["train"]), len(cases["test"])
        if not all(counts[modality]):
            continue
        for tune in tunes:
            task = _task(trained, dataset, modality, tune, cases, config)
            for trial in trials.trials(config, len(cases["train"])):
                facts = dict(task=task.title, modality=modality, head=trial == trials.main(config))
                masks = outputs.workdir if config.masks and facts["head"] else None
                fill = functools.partial(_measure, task, trial, masks)
                table += outputs.part(fill, config, [dataset], **facts, **trial._asdict())
    if not table:
        raise trials.too_few(place, counts, config, f" with {target} annotated")
    return table


def _task(
    trained: Pretrained,
    dataset: records.RecordSet,
    modality: str,
    tune: str,
    cases: Mapping[str, list[int]],
    config: SegmentConfig,
) -> "Task | CropTask":
    """What is trained and tested by the protocol of `config`. Raises UserError where the set does not fit it."""
    if config.protocol not in IN_CROPS:
        return Task(trained, dataset, modality, tune, cases, config)
    task = CropTask(trained, dataset, tune, cases, config)
    task.check()
    return task


def _measure(task: "Task | CropTask", trial: Trial, workdir: pathlib.Path | None, part: Part) -> None:
    """Trains and tests the decoder of a trial; with a `workdir` its predictions of crops are left in `masks/`."""
    config = task.config
    network = task.train(trial)
    values, present = _tested(task, network, workdir and workdir / MASKS / task.tune)
    patients = downstream.patients_of(task.dataset, task.modality, task.cases["test"])
    scalars = segmentation.summarise(values, present, task.names, resamples=config.resamples, patients=patients)
    shared = dict(task=task.title, modality=task.modality, **trial._asdict())
    slices = False if task.modality == "ct" else None
    part.rows += results.of(scalars, data=task.dataset.name, cases=len(task.cases["test"]), ct_slices=slices, **shared)
    if part.detailed:
        _add_cases(part, task, values, shared)
    if part.detailed and trial == trials.main(config):
        part.heads.append(head(task, trial, network))


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
        return task_name(self.config.target, self.tune, self.config)

    @property
    def published(self) -> bool:
        """Whether this is MGCA's protocol."""
        return self.config.protocol == "mgca"

    @property
    def kind(self) -> str:
        """Of the set: its builder."""
        return self.dataset.contract["source"].get("kind", "")

    @property
    def recipe(self) -> FitConfig:
        if self.published:
            siim = self.kind == "siim"
            return dataclasses.replace(self.config.mgca, batch=self.config.siim_batch) if siim else self.config.mgca
        return {"xray": self.config.xray, "ct": self.config.ct}[self.modality]

    @property
    def keys(self) -> fit.Keys:
        if self.published:
            named = fit.keys("mgca")
            return named._replace(batch="config.siim_batch") if self.kind == "siim" else named
        return fit.keys(f"segment.{self.modality}" if self.config.job == "evaluate" else self.modality)

    @property
    def trainable(self) -> rules.Rules:
        return self.config.trainable if self.tune == "full" else rules.EVERYTHING

    @property
    def strata(self) -> Float[np.ndarray, "n c"]:
        rows = self.cases["train"]
        if not (self.published and self.kind == "siim"):
            return np.zeros((len(rows), 0))
        source = self.dataset.source(self.modality, "train", ("labels",))
        return np.stack([source[row]["labels"] for row in rows])

    @functools.cached_property
    def names(self) -> list[str]:
        """Of the structures 1, 2, ..."""
        return structures(self.dataset, self.config.target)

    @functools.cached_property
    def segmenter(self) -> Segmenter:
        """The network."""
        classes = len(self.names) + 1 if self.config.target == "organs" else 1
        sizes = self.config.setr_channels, self.config.unetr_features, self.config.unetr_norm
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

    def train(self, trial: Trial) -> Network:
        """The network of a share of the training cases, at its best epoch."""
        return fit.train(self, trial, draws.of_protocol(self.config.protocol, self.kind))

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
    def predict(self) -> Callable[[Network, PyTree], Array]:
        """Classes on the record's grid, so that no metric depends on the network's; by MGCA's protocol on that one."""
        if self.published:
            return jax.jit(lambda network, batch: decide(self.segmenter.logits(network, batch["tokens"])[0]))
        return jax.jit(lambda network, batch: decide(self.segmenter.on_record(network, batch["tokens"], self.shape)))

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
        losses: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for part, real in supervised.evaluation(self.source("val"), self.sampler, batch, rows):  # one at a time
            loss = self._loss_of_batch(network, sharding.put_batch(part, mesh))
            losses[real == batch].append(jax.device_get(loss))
        return float(np.mean(losses[True] or losses[False]))

    @functools.cached_property
    def _loss_of_batch(self) -> Callable[[Network, PyTree], Array]:
        def loss(network: Network, batch: PyTree) -> Array:
            logits, _ = self.segmenter.logits(network, batch["tokens"])
            return dense_losses.binary(logits[..., 0], batch["mask"].astype(jnp.float32))

        return jax.jit(loss)


def _tested(
    task: Task | CropTask, network: Network, folder: pathlib.Path | None
) -> tuple[Float[np.ndarray, "n c 3"], Bool[np.ndarray, "n c"]]:
    """Dice, HD95 and NSD of every test case and structure, and which structures it has."""
    rules = {"tolerance": task.config.tolerance, "absent": "one"}
    if isinstance(task, CropTask):
        cases, rules["absent"] = task.masks("test", network, folder), task.recipe.absent
    else:
        cases = task.masks("test", network)
    measured = [segmentation.case(truth, mask, len(task.names), spacing, **rules) for truth, mask, spacing in cases]
    values, present = (np.stack(part) for part in zip(*measured, strict=True))
    return values, present


def _add_cases(
    part: Part, task: Task | CropTask, values: Float[np.ndarray, "n c 3"], shared: Mapping[str, Any]
) -> None:
    every = downstream.ids(task.dataset, task.modality)
    columns = {
        f"{kind}:{name}": values[:, number, index]
        for number, name in enumerate(task.names)
        for index, kind in enumerate(segmentation.KINDS)
    }
    part.add([every[row] for row in task.cases["test"]], columns, **shared)


def head(task: Task | CropTask, trial: Trial, network: Network) -> heads.Head:
    """What is saved of a trained network."""
    in_crops = isinstance(task, CropTask)
    kind, fields = ("crops", CROP_FACTS) if in_crops else ("segment", FACTS)
    facts = dict(
        names=task.names, target=task.config.target, **{name: getattr(task.segmenter, name) for name in fields}
    )
    made = heads.make(kind, task.tune, task.pretrained, task.dataset, task.modality, trial, **facts)
    return dataclasses.replace(made, arrays=heads.network_arrays(network))
