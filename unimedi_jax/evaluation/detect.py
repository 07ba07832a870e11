"""Detection of lesions on X-rays: YOLOv3's head on a frozen or a fine-tuned encoder."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from data.errors import UserError
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import DetectConfig
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import downstream, draws, fit, heads, results, trials, yolo
from unimedi_jax.evaluation.box_finder import BoxFinder
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import boxes, records
from unimedi_jax.metrics import detection, thresholds
from unimedi_jax.typing import Array, Float, PyTree

CORNERS = ("y_min", "x_min", "y_max", "x_max")
METRICS = ("map", "map_coco", "ap50", "map_mgca")
TASKS = {"frozen": "detection, frozen encoder", "full": "detection, fine-tuned"}


# What of the settings makes up how a detector is trained and measured.
SETTINGS = ("limit", "most", "widths", "lowest", "confidence", "overlap", "recipe")


def task_name(tune: str, config: DetectConfig | None = None) -> str:
    """The task of the results by a way of tuning and the settings; of a changed protocol under its own name."""
    config = config or DetectConfig()
    changed = trials.changed(config, *SETTINGS)
    return TASKS[tune] + trials.in_part(tune, config.trainable) + trials.of_protocol(config.protocol, changed=changed)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the detectors of `configs/detect.py`."""
    downstream.run(config, workdir, DetectConfig, evaluate, METRICS)


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: DetectConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """All rows of a set's X-rays: each way of tuning, encoder, share and seed.

    Each of these trials is a part of `outputs`, with the boxes of the test cases and the head of `trials.main`.

    Raises:
        UserError: the set has no boxes, or no test or too few training X-rays.
    """
    tunes = trials.tunes(config.tune, TASKS)
    if "boxes" not in dataset.contract["truth"]:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has no boxes: there is nothing to detect")
    trained.check(dataset, trials.modalities(trained, dataset, "xray"))
    if config.protocol == "mgca":
        config = dataclasses.replace(config, seeds=(draws.PUBLISHED_SEED,))
    table, outputs = [], outputs or Outputs()
    for tune in tunes:
        task = Task(trained, dataset, tune, config)
        for trial in trials.trials(config, len(task.cases["train"])):
            facts = dict(task=task.title, modality="xray", head=trial == trials.main(config))
            fill = functools.partial(_measure, task, trial)
            table += outputs.part(fill, config, [dataset], **facts, **trial._asdict())
    if not table:
        counts = {"xray": (len(task.cases["train"]), len(task.cases["test"]))}
        raise trials.too_few(f"the set {dataset.name} in {dataset.folder}", counts, config)
    return table


def _measure(task: "Task", trial: Trial, part: Part) -> None:
    """Trains and tests the detector of a trial."""
    config = task.config
    network = fit.train(task, trial, draws.of_protocol(config.protocol))
    cases = task.tested("test", network)
    patients = downstream.patients_of(task.dataset, "xray", task.cases["test"])
    drawn = {"resamples": config.resamples, "patients": patients}
    scalars = detection.measure(cases, confidence=config.confidence, **drawn)
    shared = dict(task=task.title, modality="xray", **trial._asdict())
    part.rows += results.of(scalars, data=task.dataset.name, cases=len(cases), **shared)
    if part.detailed:
        _add_cases(part, task, cases, shared)
    if part.detailed and trial == trials.main(config):
        part.heads.append(head(task, trial, network))


def _add_cases(part: Part, task: "Task", cases: Sequence[detection.Case], shared: Mapping[str, Any]) -> None:
    """A row for every predicted and every true box, in the pixels of the record."""
    for name, case in zip(downstream.ids(task.dataset, "xray"), cases, strict=False):  # of the first `config.limit`
        for kind, places, scores in (
            ("predicted", case.predicted, case.scores),
            ("true", case.truth, np.full(len(case.truth), np.nan)),
        ):
            columns = {"box": [kind] * len(places), "score": scores} | dict(zip(CORNERS, places.T, strict=True))
            part.add([name] * len(places), columns, **shared)


def head(task: "Task", trial: Trial, network: Network) -> heads.Head:
    """What is saved of a trained network, with the threshold of the best F1 on the validation cases."""
    settings = {name: getattr(task.config, name) for name in ("widths", "lowest", "overlap")}
    settings["published"] = task.published
    threshold = thresholds.best_f1(task.tested("val", network)) if task.cases["val"] else thresholds.UNDECIDED
    made = heads.make(
        "detect", task.tune, task.pretrained, task.dataset, "xray", trial, threshold=threshold, **settings
    )
    return dataclasses.replace(made, arrays=heads.network_arrays(network))


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
    def title(self) -> str:
        """The task of the results."""
        return task_name(self.tune, self.config)

    @property
    def published(self) -> bool:
        """Whether this is MGCA's protocol."""
        return self.config.protocol == "mgca"

    @property
    def recipe(self) -> FitConfig:
        return self.config.recipe

    @property
    def keys(self) -> fit.Keys:
        return fit.keys("detect.recipe" if self.config.job == "evaluate" else "recipe")

    @functools.cached_property
    def cases(self) -> dict[str, range]:
        """X-rays of each split, at most `config.limit` (0 = all)."""
        sizes = {split: self.dataset.size("xray", split) for split in ("train", "val", "test")}
        return {split: range(min(size, self.config.limit or size)) for split, size in sizes.items()}

    @property
    def trainable(self) -> rules.Rules:
        return self.config.trainable if self.tune == "full" else rules.EVERYTHING

    @property
    def strata(self) -> Float[np.ndarray, "n 1"]:
        """Whether an X-ray has boxes."""
        source = self.source("train")
        return np.array([[float(len(boxes.truth(source[row])) > 0)] for row in self.cases["train"]])

    @functools.cached_property
    def finder(self) -> BoxFinder:
        """The network."""
        counted = self.config.widths, self.config.lowest, self.config.overlap
        return BoxFinder(self.pretrained, *counted, published=self.published)

    @property
    def sampler(self) -> boxes.ToBoxes:
        return boxes.ToBoxes(self.pretrained.size("xray"), self.pretrained.patch("xray"), self.config.most)

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        return self.dataset.source("xray", split, ("image", "boxes"))

    def start(self, trial: Trial) -> Network:
        return self.finder.start(trial, frozen=self.tune == "frozen")

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        answers, stats = self.finder.answers(network, batch["tokens"], train=True)
        grid = self.finder.head.grid
        return yolo.loss(answers, batch["boxes"], batch["real"], grid, published=self.published), stats

    def predict(self, network: Network, batch: PyTree) -> tuple[Array, Array]:
        """Places and scores of all boxes."""
        return self.finder.apply(network, batch["tokens"])

    def tested(self, split: str, network: Network, lowest: float = 0.0) -> list[detection.Case]:
        """Boxes and truth of every X-ray of a split; boxes scored below `lowest` are not looked at."""
        source, predicted = self.source(split), fit.predictions(self, split, network)
        rows = zip(self.cases[split], predicted, strict=True)
        return [self.case(source[row], *answer, lowest=lowest) for row, answer in rows]

    def case(
        self, record: dict[str, Any], places: np.ndarray, scores: np.ndarray, lowest: float = 0.0
    ) -> detection.Case:
        """The boxes that count, in the record's pixels, beside the true ones."""
        predicted = self.finder.boxes(places, scores, record["image"].shape, lowest)
        return detection.Case(*predicted, boxes.truth(record))

    def score(self, network: Network) -> float:
        """Mean average precision; by MGCA's protocol its own, 0 while no box is sure enough to count."""
        if not self.published:
            return detection.mean(self.tested("val", network), detection.PAPER)
        sure = self.config.confidence  # a weaker box drops no stronger one, so that it may go first
        return float(np.nan_to_num(detection.mean_of_mgca(self.tested("val", network, sure), sure)))
