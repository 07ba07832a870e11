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
from unimedi_jax import patches, sharding
from unimedi_jax.config.jobs import FitConfig, SegmentConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import dense_losses, encoder, fit, results, sliding, trials
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference import pretrained
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import dense, records
from unimedi_jax.metrics import segmentation
from unimedi_jax.models import setr, unetr
from unimedi_jax.typing import Array, Float, PyTree, UInt8

METRICS = ("dice/mean", "hd95/mean", "nsd/mean")
TUNES = {"frozen": "frozen encoder", "full": "fine-tuned"}
Logits = Float[Array, "b *space c"]
QUARTERS = (0.25, 0.5, 0.75)  # of the depth: the hidden states UNETR taps, blocks 3, 6 and 9 of ViT-B


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the decoders of `configs/segment.py`, writes `results.csv` into `workdir`, prints a table."""
    settings = typed(SegmentConfig, config)
    trained = pretrained.load(settings.checkpoint, settings.network)
    workdir = results.folder(workdir, trained)
    dataset = records.open_set(settings.data_dir, settings.data)
    trials.check_leaks(trained, [dataset], settings)
    rows = evaluate(trained, dataset, settings)
    results.publish(rows, METRICS, workdir, trained)


def evaluate(trained: Pretrained, dataset: records.RecordSet, config: SegmentConfig) -> list[results.Result]:
    """All rows of a set: each modality that has the target, way of tuning, encoder, share and seed.

    Raises:
        UserError: a setting is wrong, or the set has no annotated cases.
    """
    tunes, target = trials.tunes(config.tune, TUNES), config.target
    if target not in dense.TARGETS:
        raise UserError(f"config.target is one of {', '.join(dense.TARGETS)}, not {target!r}")
    field, place = dense.TARGETS[target], f"the set {dataset.name} in {dataset.folder}"
    if field not in dataset.contract["truth"]:
        raise UserError(f"{place} has no {field}: choose another config.target")
    table = []
    for modality in trials.modalities(dataset, config.modality):
        trained.check(dataset, (modality,))
        cases = {split: annotated(dataset, modality, split, config) for split in ("train", "val", "test")}
        if not cases["train"] or not cases["test"]:
            continue
        for tune in tunes:
            task = Task(trained, dataset, modality, tune, cases, config)
            for trial in trials.trials(config, len(cases["train"])):
                shared = dict(data=dataset.name, modality=modality, cases=len(cases["test"]), **trial._asdict())
                shared["ct_slices"] = False if modality == "ct" else None
                table += results.of(_trained_and_tested(task, trial), task=task_name(target, tune), **shared)
    if not table:
        raise UserError(f"{place} has no annotated test cases for {target}, or {trials.TOO_FEW}")
    return table


def task_name(target: str, tune: str) -> str:
    """The task of the results for a target and a way of tuning."""
    return f"segmentation of {target}, {TUNES[tune]}"


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
    def recipe(self) -> FitConfig:
        return {"xray": self.config.xray, "ct": self.config.ct}[self.modality]

    @property
    def strata(self) -> Float[np.ndarray, "n 0"]:
        return np.zeros((len(self.cases["train"]), 0))

    @functools.cached_property
    def names(self) -> list[str]:
        """Of the structures 1, 2, ..."""
        target = self.config.target
        return organs(self.dataset.contract) if target == "organs" else [target.removesuffix("s").removesuffix("e")]

    @functools.cached_property
    def decoder(self) -> setr.SetrPup | unetr.Unetr:
        """Logits of the classes, one of which is the background; of a single structure that of its presence alone."""
        classes = len(self.names) + 1 if self.config.target == "organs" else 1
        patch = self.pretrained.patch(self.modality)
        grid = patches.grid(self.pretrained.size(self.modality), patch)
        if self.modality == "xray":
            return setr.SetrPup(classes, grid, patch, self.config.setr_channels)
        return unetr.Unetr(classes, grid, patch, self.config.unetr_features)

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
        size = self.pretrained.size(self.modality)
        count = int(np.prod(patches.grid(size, self.pretrained.patch(self.modality))))
        tokens = jnp.zeros((1, count, self.pretrained.model.vision.width))
        inputs = (tokens,) if self.modality == "xray" else (jnp.zeros((1, *size)), [tokens] * len(QUARTERS), tokens)
        try:
            variables = jax.jit(self.decoder.init)(jax.random.key(trial.seed), *inputs)
        except ValueError as error:
            raise UserError(f"the {self.modality} decoder does not fit this checkpoint: {error}") from error
        return networks.start(self.pretrained, trial.encoder, variables, frozen=self.tune == "frozen")

    def logits(self, network: Network, tokens: Array, *, train: bool = False) -> tuple[Logits, PyTree]:
        """Logits of every pixel or voxel at the network's resolution, and the new `stats`."""
        model, ct = self.pretrained.model, self.modality == "ct"
        encoded = encoder.states(model, network.encoder, tokens, self.modality, hidden=ct)
        inputs = (encoded.patches,)
        if ct:
            depth = len(encoded.hidden)
            taps = [encoded.hidden[max(1, round(share * depth)) - 1] for share in QUARTERS]
            inputs = (encoder.voxels(model, tokens), taps, encoded.patches)
        return networks.decode(self.decoder, network, *inputs, train=train)

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        logits, stats = self.logits(network, batch["tokens"], train=True)
        if logits.shape[-1] == 1:
            return dense_losses.binary(logits[..., 0], batch["mask"].astype(jnp.float32)), stats
        return dense_losses.exclusive(logits, batch["mask"]), stats

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the records' own grid."""
        return self.source("test")[0]["image" if self.modality == "xray" else "volume"].shape

    @functools.cached_property
    def predict(self) -> Callable[[Network, Array], Array]:
        """Classes on the record's grid, so that no metric depends on the network's resolution; of windows, logits."""

        def run(network: Network, tokens: Array) -> Array:
            logits, _ = self.logits(network, tokens)
            if self.windows:
                return logits
            return decide(jax.image.resize(logits, (len(logits), *self.shape, logits.shape[-1]), "linear"))

        return jax.jit(run)

    def masks(self, split: str, network: Network) -> Iterator[tuple[np.ndarray, np.ndarray, Sequence[float]]]:
        """Truth, predicted classes and spacing of each case of a split, on the record's own grid."""
        source, rows = self.source(split), self.cases[split]
        if self.windows:
            predicted = (self._in_windows(source[row]["volume"], network) for row in rows)
        else:
            predicted = fit.predictions(self, split, network)
        for row, mask in zip(rows, predicted, strict=True):
            record = source[row]
            yield dense.truth(record, self.config.target), mask, record.get("spacing_mm", (1.0, 1.0))

    def score(self, network: Network) -> float:
        """Mean Dice."""
        classes, cases = range(1, len(self.names) + 1), self.masks("val", network)
        return float(np.mean([segmentation.dice(truth == c, mask == c) for truth, mask, _ in cases for c in classes]))

    def _in_windows(self, volume: np.ndarray, network: Network) -> np.ndarray:
        size, patch, mesh = self.pretrained.size("ct"), self.pretrained.patch("ct"), self.pretrained.mesh

        def logits(windows: np.ndarray) -> np.ndarray:
            return np.asarray(self.predict(network, sharding.put_batch(patches.patchify(windows, patch), mesh)))

        return np.asarray(decide(sliding.predict(volume, size, logits, rows=self.recipe.batch)))


def decide(logits: Float[Array, "*space c"]) -> UInt8[Array, "*space"]:
    """The most probable class; of a single logit whether it is positive."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.uint8)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def _trained_and_tested(task: Task, trial: Trial) -> dict[str, float]:
    count, tolerance, cases = len(task.names), task.config.tolerance, task.masks("test", fit.train(task, trial))
    measured = [segmentation.case(truth, mask, count, spacing, tolerance=tolerance) for truth, mask, spacing in cases]
    values, present = (np.stack(part) for part in zip(*measured, strict=True))
    return segmentation.summarise(values, present, task.names, resamples=task.config.resamples)
