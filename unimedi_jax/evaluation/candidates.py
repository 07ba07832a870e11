"""Candidates of nodules (LUNA16): a linear probe on crops of 1 mm around them, AUC and FROC.

The encoder stands still; all candidates of the test CTs are scored, of the training CTs the nodules' and some others
learn.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from data import progress
from data.errors import UserError
from unimedi_jax import patches, sharding
from unimedi_jax.config.jobs import EvaluateConfig
from unimedi_jax.evaluation import encoder, native, results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import crops, records
from unimedi_jax.metrics import classification, froc, linear_probe
from unimedi_jax.models import inputs
from unimedi_jax.typing import Array, Float, PyTree

TASK = "nodule candidates, linear probe"
METRICS = ("auroc/nodule", "auprc/nodule", "froc")
SPACING_MM, SEED = (1.0, 1.0, 1.0), 0
FIELDS = ("patient", "volume", "candidates", "boxes", "excluded")


class Split(NamedTuple):
    """The candidates of a split that are looked at, scan after scan."""

    features: Float[np.ndarray, "n d"]
    present: Float[np.ndarray, " n"]  # 1 for a nodule's
    middles: list[np.ndarray]  # of each scan's, mm
    nodules: list[np.ndarray]  # middle and diameter in mm, of each scan
    excluded: list[np.ndarray]
    patients: list[str]  # of each scan

    @property
    def labelled(self) -> linear_probe.Labelled:
        """The candidates, each with the patient of its scan."""
        counts = [len(middles) for middles in self.middles]
        patients = [name for name, count in zip(self.patients, counts, strict=True) for _ in range(count)]
        return linear_probe.Labelled(self.features, self.present[:, None], patients)


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """AUC and FROC of each encoder. Raises UserError as `check` does."""
    check(trained, dataset, config.candidates.crop)
    outputs = outputs or Outputs()
    fills = ((name, functools.partial(_measure, trained, dataset, config, name)) for name in trials.encoders(config))
    rows = [outputs.part(fill, config, [dataset], task=TASK, encoder=name) for name, fill in fills]
    return list(itertools.chain(*rows))


def check(trained: Pretrained, dataset: records.RecordSet, crop: tuple[int, ...]) -> None:
    """Raises UserError for a set without candidates or not at 1 mm, or crops that the patches do not divide."""
    if "candidates" not in dataset.contract["truth"]:
        raise UserError("no candidates: build luna16 with --config.options.candidates=True --config.spacing_mm=1,1,1")
    if native.spacing(dataset) != SPACING_MM:
        raise UserError(f"candidates are cut at 1 mm: build {dataset.folder} with --config.spacing_mm=1,1,1")
    try:
        patches.grid(crop, trained.model.volume_patch)
    except ValueError as error:
        raise UserError(f"config.candidates.crop does not fit this checkpoint: {error}") from error
    native.check(trained, dataset)


def _measure(trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, name: str, part: Part) -> None:
    reader = Reader(trained, dataset, config, name)
    train, test = reader.split("train", config.candidates.negatives), reader.split("test", 0)
    val = reader.split("val", config.candidates.negatives) if dataset.size("ct", "val") else None
    labelled = [one.labelled for one in (train, val) if one]
    classifier = linear_probe.fit(*labelled, seed=SEED)
    scores = classifier.probabilities(test.features)
    scalars = classification.measure(scores, test.present[:, None], ["nodule"], resamples=0)
    scans = scored(test, scores[:, 0])
    scalars |= froc.measure(scans, resamples=config.resamples, patients=test.patients)
    shared = dict(task=TASK, data=dataset.name, modality="ct", encoder=name)
    part.rows += results.of(scalars, cases=len(scans), **shared)


def scored(test: Split, scores: Float[np.ndarray, " n"]) -> list[froc.Scan]:
    """What became of the candidates of each scan."""
    parts = np.split(scores, np.cumsum([len(middles) for middles in test.middles])[:-1])
    return [froc.of_scan(*one) for one in zip(test.middles, parts, test.nodules, test.excluded, strict=True)]


@dataclasses.dataclass(frozen=True)
class Reader:
    """The candidates of a set through an encoder."""

    trained: Pretrained
    dataset: records.RecordSet
    config: EvaluateConfig
    name: str  # of the encoder: "trained" or "untrained"

    @functools.cached_property
    def embed(self) -> Callable[[PyTree, Array], Array]:
        """Jitted: CLS of crops in HU."""
        model = self.trained.model

        def run(vision: PyTree, volumes: Array) -> Array:
            return encoder.states_of_crops(model, vision, inputs.hounsfield(volumes, model.window_hu)).cls

        return jax.jit(run)

    def split(self, part: str, negatives: int) -> Split:
        """A split's candidates: all, or of each scan all nodules' and so many others (0: all)."""
        rng, source = np.random.default_rng(SEED), self.dataset.source("ct", part, FIELDS)
        features, present, middles, nodules, excluded, patients = [], [], [], [], [], []
        with progress.shown(len(source), f"candidates of {part}") as tick:
            for record in source:
                rows = record["candidates"][chosen(record["candidates"][:, 0] > 0, negatives, rng)]
                features += list(self._features(record["volume"], rows[:, 1:]))
                present.append((rows[:, 0] > 0).astype(np.float64))
                middles.append(rows[:, 1:].astype(np.float64))
                nodules.append(nodules_of(record["boxes"]))
                excluded.append(record["excluded"].astype(np.float64))
                patients.append(records.text(record["patient"]))
                tick(1)
        width = self.trained.model.vision.width
        rows = np.array(features).reshape(-1, width), np.concatenate(present)
        return Split(*rows, middles, nodules, excluded, patients)

    def _features(self, volume: crops.Volume, places: Float[np.ndarray, "n 3"]) -> Iterator[np.ndarray]:
        count = self.config.rows * self.trained.mesh.size
        vision = {"vision": self.trained.encoder(self.name)["params"]["vision"]}
        for start in range(0, len(places), count):
            some = np.stack(
                [crops.around(volume, at, self.config.candidates.crop) for at in places[start : start + count]]
            )
            full = some[np.arange(count).clip(max=len(some) - 1)]  # one compiled size
            yield from jax.device_get(self.embed(vision, sharding.put_batch(full, self.trained.mesh)))[: len(some)]


def chosen(present: np.ndarray, negatives: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the nodules' candidates and of `negatives` others, drawn; 0: of all."""
    others = np.flatnonzero(~present)
    if negatives and len(others) > negatives:
        others = rng.choice(others, negatives, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(present), others]))


def nodules_of(boxes: Float[np.ndarray, "n 7"]) -> Float[np.ndarray, "n 4"]:
    """Middles and diameters of nodules from their boxes, in voxels of 1 mm."""
    low, high = boxes[:, 1:4].astype(np.float64), boxes[:, 4:].astype(np.float64)
    return np.column_stack([(low + high) / 2, (high - low).max(axis=1, initial=0)])
