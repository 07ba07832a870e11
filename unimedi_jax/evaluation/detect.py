"""Detection of lesions on X-rays: YOLOv3's head on a frozen or a fine-tuned encoder."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches
from unimedi_jax.config.jobs import DetectConfig, FitConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import encoder, fit, results, trials, yolo
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference import pretrained
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import boxes, records
from unimedi_jax.metrics import detection
from unimedi_jax.models import detector
from unimedi_jax.typing import Array, Float, PyTree

METRICS = ("map", "map_coco", "ap50", "map_mgca")
TASKS = {"frozen": "detection, frozen encoder", "full": "detection, fine-tuned"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the detectors of `configs/detect.py`, writes `results.csv` into `workdir`, prints a table."""
    settings = typed(DetectConfig, config)
    trained = pretrained.load(settings.checkpoint, settings.network)
    workdir = results.folder(workdir, trained)
    dataset = records.open_set(settings.data_dir, settings.data)
    trials.check_leaks(trained, [dataset], settings)
    rows = evaluate(trained, dataset, settings)
    results.publish(rows, METRICS, workdir, trained)


def evaluate(trained: Pretrained, dataset: records.RecordSet, config: DetectConfig) -> list[results.Result]:
    """All rows of a set's X-rays: each way of tuning, encoder, share and seed.

    Raises:
        UserError: the set has no boxes, or no test or too few training X-rays.
    """
    tunes = trials.tunes(config.tune, TASKS)
    if "boxes" not in dataset.contract["truth"]:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has no boxes: there is nothing to detect")
    trained.check(dataset, trials.modalities(dataset, "xray"))
    table = []
    for tune in tunes:
        task = Task(trained, dataset, tune, config)
        for trial in trials.trials(config, len(task.cases["train"])):
            cases = task.tested("test", fit.train(task, trial))
            scalars = detection.measure(cases, confidence=config.confidence, resamples=config.resamples)
            place = dict(task=TASKS[tune], data=dataset.name, modality="xray", cases=len(cases))
            table += results.of(scalars, **place, **trial._asdict())
    if not table:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has {trials.TOO_FEW}")
    return table


@dataclasses.dataclass(frozen=True)
class Task:
    """Detection on one set, for `fit.train`."""

    pretrained: Pretrained
    dataset: records.RecordSet
    tune: str
    config: DetectConfig

    @property
    def name(self) -> str:
        return self.tune

    @property
    def recipe(self) -> FitConfig:
        return self.config.recipe

    @functools.cached_property
    def cases(self) -> dict[str, range]:
        """X-rays of each split, at most `config.limit` (0 = all)."""
        sizes = {split: self.dataset.size("xray", split) for split in ("train", "val", "test")}
        return {split: range(min(size, self.config.limit or size)) for split, size in sizes.items()}

    @property
    def strata(self) -> Float[np.ndarray, "n 1"]:
        """Whether an X-ray has boxes."""
        source = self.source("train")
        return np.array([[float(len(boxes.truth(source[row])) > 0)] for row in self.cases["train"]])

    @functools.cached_property
    def head(self) -> detector.Detector:
        """On the encoder's map."""
        grid = patches.grid(self.pretrained.size("xray"), self.pretrained.patch("xray"))
        return detector.Detector(grid, self.config.widths)

    @property
    def sampler(self) -> boxes.ToBoxes:
        return boxes.ToBoxes(self.pretrained.size("xray"), self.pretrained.patch("xray"), self.config.most)

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        return self.dataset.source("xray", split, ("image", "boxes"))

    def start(self, trial: Trial) -> Network:
        tokens = jnp.zeros((1, int(np.prod(self.head.grid)), self.pretrained.model.vision.width))
        variables = jax.jit(self.head.init)(jax.random.key(trial.seed), tokens)
        return networks.start(self.pretrained, trial.encoder, variables, frozen=self.tune == "frozen")

    def answers(self, network: Network, tokens: Array, *, train: bool = False) -> tuple[list[Array], PyTree]:
        """Raw answers of the three scales, and the new `stats`."""
        encoded = encoder.states(self.pretrained.model, network.encoder, tokens, "xray")
        return networks.decode(self.head, network, encoded.patches, train=train)

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        answers, stats = self.answers(network, batch["tokens"], train=True)
        return yolo.loss(answers, batch["boxes"], batch["real"], self.head.grid), stats

    @functools.cached_property
    def predict(self) -> Callable[[Network, Array], tuple[Array, Array]]:
        """Places (centre and size in parts of the picture) and scores of all boxes."""

        def run(network: Network, tokens: Array) -> tuple[Array, Array]:
            answers = detector.decode(self.answers(network, tokens)[0], self.head.grid)
            return answers.place, jax.nn.sigmoid(answers.objectness) * jax.nn.sigmoid(answers.finding)

        return jax.jit(run)

    def tested(self, split: str, network: Network) -> list[detection.Case]:
        """Boxes and truth of every X-ray of a split."""
        source, predicted = self.source(split), fit.predictions(self, split, network)
        return [self.case(source[row], *answer) for row, answer in zip(self.cases[split], predicted, strict=True)]

    def case(self, record: dict[str, Any], places: np.ndarray, scores: np.ndarray) -> detection.Case:
        """The boxes that count, in the record's pixels, beside the true ones."""
        # More than COCO's hundred never count, and suppression compares every pair.
        best = np.argsort(-scores, kind="stable")[: 4 * detection.MOST]
        best = best[scores[best] >= self.config.lowest]
        shape = np.array(record["image"].shape, np.float32)
        centre, half = places[best, :2] * shape, places[best, 2:] * shape / 2
        corners = np.concatenate([np.clip(centre - half, 0, shape), np.clip(centre + half, 0, shape)], axis=1)
        strongest = detection.suppress(corners, scores[best], above=self.config.overlap)
        return detection.Case(*strongest, boxes.truth(record))

    def score(self, network: Network) -> float:
        """Mean average precision."""
        return detection.measure(self.tested("val", network))["map"]
