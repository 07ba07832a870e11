"""Candidates of nodules by Models Genesis's protocol (its task NCC): the whole network is fine-tuned, AUC.

Folds, window, crop, optimiser, plateau and stop are those of keras/downstream_tasks of its code. What it leaves open,
which candidates train, is done as in PCRLv2's LunaFineTune: one of a nodule to two others, and nodules are mirrored and
turned. Crops are cut once and lie in a file without a name.
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from data import progress
from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import CandidatesTask, EvaluateConfig
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import candidates, encoder, fine_tuning, fit, results, trials
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import crops, records
from unimedi_jax.metrics import classification, froc
from unimedi_jax.report import published
from unimedi_jax.typing import Array, Float, Int16, PyTree

TASK = "nodule candidates, fine-tuned" + trials.PUBLISHED["genesis"]
PARTS = ("train", "val")  # that are cut beforehand
WINDOW_HU = (-1000.0, 1000.0)
OTHERS = 2  # candidates of no nodule to one of a nodule, which an epoch has TWICE
TWICE = 2
RATE, FLIPS = 0.4, 4  # chance of each further mirroring, and of quarter turns; most mirrorings
Crops = Int16[np.ndarray, "n z y x"]


def task_name(config: EvaluateConfig) -> str:
    """The task of the results: TASK, and of changed settings a name of their own."""
    return TASK + (published.CHANGED if config.candidates != CandidatesTask() else "")


class Cut(NamedTuple):
    """The crops of a split."""

    nodules: Crops
    others: Crops


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """AUC and FROC of each encoder, fine-tuned on the candidates of a set's training CTs.

    Raises:
        UserError: as `candidates.evaluate`, or no candidate of a nodule trains or validates.
    """
    candidates.check(trained, dataset, config.candidates.crop)
    task, outputs = CandidateTuning(trained, dataset, config), outputs or Outputs()
    lacking = [part for part in PARTS if not dataset.size("ct", part)]
    lacking = lacking or [part for part in PARTS if not len(task.cut[part].nodules)]
    if lacking:
        raise UserError(f"{dataset.folder} has no candidate of a nodule in {lacking[0]}: build it with split=genesis")
    chosen = [Trial(name, seed=config.seeds[0]) for name in trials.encoders(config)]
    fills = ((trial, functools.partial(task.measure, trial)) for trial in chosen)
    name = task_name(config)
    rows = [outputs.part(fill, config, [dataset], task=name, **trial._asdict()) for trial, fill in fills]
    return list(itertools.chain(*rows))


@dataclasses.dataclass(frozen=True)
class CandidateTuning:
    """The network of one set, for `fit.train`: CLS of a crop's tokens under a linear head."""

    pretrained: Pretrained
    dataset: records.RecordSet
    config: EvaluateConfig

    name = "candidates"
    trainable = rules.EVERYTHING
    keys = fit.keys("candidates.genesis")

    @property
    def recipe(self) -> FitConfig:
        return self.config.candidates.genesis

    @functools.cached_property
    def cut(self) -> dict[str, Cut]:
        """The crops that train and validate."""
        return {part: cut(self.dataset, part, self.config.candidates) for part in PARTS}

    @property
    def cases(self) -> dict[str, range]:
        """An epoch has every nodule's candidates TWICE, each with OTHERS; validation has all once."""
        train, val = self.cut["train"], self.cut["val"]
        return {"train": range(TWICE * (1 + OTHERS) * len(train.nodules)), "val": range(sum(map(len, val)))}

    @property
    def strata(self) -> Float[np.ndarray, "n 0"]:
        return np.zeros((len(self.cases["train"]), 0))

    @property
    def sampler(self) -> "ToCrop":
        return ToCrop(self.cut["train"].others)

    def source(self, split: str) -> "Source":
        return Source(self.cut[split], self.cases[split], drawn=split == "train")

    def start(self, trial: Trial) -> Network:
        head = {"weights": jnp.zeros((self.pretrained.model.vision.width, 1)), "bias": jnp.zeros(1)}
        return networks.start(self.pretrained, trial.encoder, {"params": head}, frozen=False)

    def logits(self, network: Network, batch: PyTree) -> Float[Array, "b 1"]:
        """From crops in [-1, 1]."""
        head = network.decoder
        cls = encoder.states_of_crops(self.pretrained.model, network.encoder, batch["tokens"]).cls
        return cls.astype(jnp.float32) @ head["weights"] + head["bias"][None]

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        logits = self.logits(network, batch)
        return fine_tuning.losses(logits, batch["labels"], False).mean(), network.stats

    @functools.cached_property
    def predict(self):
        return jax.jit(self.logits)

    def score(self, network: Network) -> float:
        """Minus the validation loss."""
        logits = np.stack(list(fit.predictions(self, "val", network)))
        labels = np.repeat([[1.0], [0.0]], [len(part) for part in self.cut["val"]], axis=0)
        return -float(jnp.mean(fine_tuning.losses(logits, labels, False)))

    def measure(self, trial: Trial, part: Part) -> None:
        """Trains a network and tests it on all candidates of the test CTs."""
        network = fit.train(self, trial)
        split, scores = self.tested(network)
        scalars = classification.measure(scores[:, None], split.present[:, None], ["nodule"])
        scans = candidates.scored(split, scores)
        scalars |= froc.measure(scans, resamples=self.config.resamples, patients=split.patients)
        shared = dict(task=task_name(self.config), data=self.dataset.name, modality="ct", **trial._asdict())
        part.rows += results.of(scalars, cases=len(scans), **shared)

    def tested(self, network: Network) -> tuple[candidates.Split, Float[np.ndarray, " n"]]:
        """The candidates of the test CTs, scan after scan, and their scores."""
        scores, places, rest = [], [], []
        source = self.dataset.source("ct", "test", candidates.FIELDS)
        with progress.shown(len(source), "candidates of test") as tick:
            for record in source:
                rows = record["candidates"]
                scores += self._scores(network, record["volume"], rows[:, 1:])
                places.append(rows)
                nodules, excluded = candidates.nodules_of(record["boxes"]), record["excluded"].astype(np.float64)
                rest.append((nodules, excluded, records.text(record["patient"])))
                tick(1)
        present = (np.concatenate(places)[:, 0] > 0).astype(np.float64)
        middles = [rows[:, 1:].astype(np.float64) for rows in places]
        none = np.zeros((len(present), 0))
        return candidates.Split(none, present, middles, *map(list, zip(*rest, strict=True))), np.array(scores)

    def _scores(self, network: Network, volume: crops.Volume, places: Float[np.ndarray, "n 3"]) -> list[float]:
        batch, scores = self.recipe.batch, []
        for start in range(0, len(places), batch):
            some = [crops.around(volume, at, self.config.candidates.crop) for at in places[start : start + batch]]
            full = {"tokens": scaled(np.stack(some + some[-1:] * (batch - len(some))))}  # one compiled size
            logits = jax.device_get(self.predict(network, sharding.put_batch(full, self.pretrained.mesh)))
            scores += [float(1 / (1 + np.exp(-one))) for one in logits[: len(some), 0]]
        return scores


@dataclasses.dataclass(frozen=True)
class Source(Sequence[dict[str, Any]]):
    """Crops with their label; where others are `drawn`, two of three rows leave it to the sampler which."""

    cut: Cut
    rows: range
    drawn: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the rows
        count = len(self.cut.nodules)
        if self.drawn:
            row, place = divmod(index, 1 + OTHERS)
            return {"crop": None if place else self.cut.nodules[row % count], "label": float(not place)}
        crop = self.cut.nodules[index] if index < count else self.cut.others[index - count]
        return {"crop": crop, "label": float(index < count)}


@dataclasses.dataclass(frozen=True)
class ToCrop:
    """A row of `Source` to `tokens`, the crop in [-1, 1], and `labels`."""

    others: Crops

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        crop = self.others[rng.integers(len(self.others))] if record["crop"] is None else record["crop"]
        if rng is not None and record["label"]:
            crop = turned(crop, rng)
        return {"tokens": scaled(crop), "labels": np.array([record["label"]], np.float32)}


def turned(crop: Int16[np.ndarray, "z y x"], rng: np.random.Generator) -> Int16[np.ndarray, "z y x"]:
    """A crop after PCRLv2's random mirroring and quarter turns in the plane."""
    for _ in range(FLIPS):
        if rng.random() >= RATE:
            break
        crop = np.flip(crop, int(rng.integers(3)))
    return np.rot90(crop, int(rng.integers(4)), (1, 2)) if rng.random() < RATE else crop


def scaled(volumes: Int16[np.ndarray, "*b z y x"]) -> Float[np.ndarray, "*b z y x"]:
    """Hounsfield units to [-1, 1] over the published window."""
    return np.ascontiguousarray(2 * crops.scaled(volumes, WINDOW_HU) - 1)


def cut(dataset: records.RecordSet, part: str, task: CandidatesTask) -> Cut:
    """The crops of a split's candidates: all of nodules, and of each CT `task.negatives` others, drawn."""
    kinds = (True, False)
    with tempfile.TemporaryFile() as nodules, tempfile.TemporaryFile() as others:
        files, counts = (nodules, others), [0, 0]
        for crop, present in _crops(dataset, part, task):
            kind = kinds.index(present)
            files[kind].write(crop.tobytes())
            counts[kind] += 1
        return Cut(*(_mapped(file, count, task.crop) for file, count in zip(files, counts, strict=True)))


def _crops(
    dataset: records.RecordSet, part: str, task: CandidatesTask
) -> Iterator[tuple[Int16[np.ndarray, "z y x"], bool]]:
    rng, source = np.random.default_rng(candidates.SEED), dataset.source("ct", part, candidates.FIELDS)
    with progress.shown(len(source), f"candidates of {part}") as tick:
        for record in source:
            rows = record["candidates"]
            for row in rows[candidates.chosen(rows[:, 0] > 0, task.negatives, rng)]:
                yield crops.around(record["volume"], row[1:], task.crop), bool(row[0] > 0)
            tick(1)


def _mapped(file: Any, count: int, size: Sequence[int]) -> Crops:
    """What was written, without holding it in memory; it goes with the last view of it."""
    file.flush()
    shape = (count, *size)
    return np.memmap(file, np.int16, "r", shape=shape) if count else np.zeros(shape, np.int16)
