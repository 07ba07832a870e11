"""Segmentation of CTs in crops at their own resolution (UNETR, VoCo), measured on the voxels of the file.

The truth is the file's own mask where the record holds it, else the record's. Logits are brought back to these voxels
before they are decided.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
from jax import numpy as jnp
from nibabel import affines

from data import progress
from data.errors import UserError
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import SegmentConfig
from unimedi_jax.config.recipes import CropsConfig
from unimedi_jax.evaluation import dense_losses, draws, fit, native
from unimedi_jax.evaluation.crop_segmenter import CropSegmenter
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.segment_cases import structures, task_name
from unimedi_jax.evaluation.segmenter import decide
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference import maps
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import crops, dense, records, scan_grid, supervised
from unimedi_jax.metrics import segmentation, vectors
from unimedi_jax.typing import Array, Float, PyTree

ON_FILE = "original_"  # how the fields begin that say where a file's voxels are, and its masks
Case = tuple[np.ndarray, np.ndarray, Sequence[float]]  # truth, predicted classes, spacing


@dataclasses.dataclass(frozen=True)
class CropTask:
    """Segmentation of the CTs of one set, for `fit.fit`."""

    pretrained: Pretrained
    dataset: records.RecordSet
    tune: str
    cases: Mapping[str, list[int]]  # annotated ones of each split
    config: SegmentConfig

    modality = "ct"

    @property
    def title(self) -> str:
        """The task of the results."""
        return task_name(self.config.target, self.tune, self.config)

    @functools.cached_property
    def names(self) -> list[str]:
        """Of the structures 1, 2, ..."""
        return structures(self.dataset, self.config.target)

    @property
    def recipe(self) -> CropsConfig:
        return self.config.crops

    @functools.cached_property
    def segmenter(self) -> CropSegmenter:
        """The network."""
        recipe, classes = self.recipe, len(self.names) + 1 if self.config.target == "organs" else 1
        cut = recipe.crop, recipe.window_hu, recipe.overlap
        return CropSegmenter(self.pretrained, classes, self.config.unetr_features, self.config.unetr_norm, *cut)

    @property
    def sampler(self) -> crops.ToCrops:
        recipe = self.recipe
        flip = 0.0 if crops.name_sides(self.names) else recipe.flip
        chances = crops.Augmentation(flip, recipe.rotate, recipe.scale, recipe.shift)
        return crops.ToCrops(self.config.target, recipe.crop, recipe.crops, recipe.positive, recipe.window_hu, chances)

    def check(self) -> None:
        """Raises UserError for a set of another spacing than the recipe's, or of other rules than the encoder's."""
        spacing, asked, protocol = native.spacing(self.dataset), self.recipe.spacing_mm, self.config.protocol
        if asked and not (spacing and np.allclose(spacing, asked, atol=1e-3)):
            text = ",".join(f"{one:g}" for one in asked)
            raise UserError(
                f"config.protocol={protocol} takes CTs at {text} mm (z, y, x); {self.dataset.folder} has "
                f"{spacing or 'whole scans on one grid'}: build the set with --config.spacing_mm={text}, or name "
                f"another with --config.{protocol}.spacing_mm of configs/segment.py"
            )
        native.check(self.pretrained, self.dataset)

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        """The records of a split with the masks of the target."""
        field = dense.TARGETS[self.config.target]
        places = ("id", "volume", "spacing_mm", "affine", f"{ON_FILE}shape", f"{ON_FILE}affine")
        return self.dataset.source("ct", split, (*places, field, ON_FILE + field))

    def start(self, trial: Trial) -> Network:
        """Raises UserError where the decoder does not fit the encoder."""
        return self.segmenter.start(trial, frozen=self.tune == "frozen")

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        """DiceCE over exclusive structures, MGCA's loss for a single one."""
        logits, stats = self.segmenter.logits(network, batch["crops"], train=True)
        if logits.shape[-1] == 1:
            return dense_losses.binary(logits[..., 0], batch["mask"].astype(jnp.float32)), stats
        return dense_losses.exclusive(logits, batch["mask"].astype(jnp.int32)), stats

    def train(self, trial: Trial) -> Network:
        """The network of a share of the training CTs, at the validation with the best Dice."""
        recipe, mesh, strata = self.recipe, self.pretrained.mesh, np.zeros((len(self.cases["train"]), 0))
        section = f"config.{self.config.protocol}"
        fit.check_batch(recipe.fit.batch, mesh, f"{section}.cts * {section}.crops")
        rows = [self.cases["train"][i] for i in draws.stratified(strata, trial.share, seed=trial.seed)]
        drawn = supervised.training(self.source("train"), self.sampler, rows, recipe.cts, seed=trial.seed)
        batches = ({name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()} for batch in drawn)
        score = self.score if self.cases["val"] else None
        asked = self.config.trainable if self.tune == "full" else rules.EVERYTHING
        start, partition = fit.prepared(self.start(trial), asked, recipe.fit, trial.seed)
        loop = fit.Loop(recipe.steps, mesh, f"{self.title}, {trial}", partition, f"{section}.lr")
        return fit.trimmed(fit.fit(start, self.loss, batches, score, recipe.fit, loop).network, partition)

    def score(self, network: Network) -> float:
        """Mean Dice of the structures that the validation CTs have, on the records' grid."""
        source, values = self.source("val"), []
        with progress.shown(len(self.cases["val"]), "CTs of val") as tick:
            for row in self.cases["val"]:
                record = source[row]
                truth, predicted = dense.truth(record, self.config.target), decide(self._logits(network, record))
                classes = (number for number in range(1, len(self.names) + 1) if (truth == number).any())
                values += [segmentation.dice(truth == number, predicted == number) for number in classes]
                tick(1)
        return vectors.nan_mean(np.array(values))

    def masks(self, split: str, network: Network, folder: pathlib.Path | None = None) -> Iterator[Case]:
        """Truth, predicted classes and spacing of each case, on the file's voxels where the record knows them.

        With a `folder` the predictions are written there as `<id>.nii.gz`.
        """
        source = self.source(split)
        with progress.shown(len(self.cases[split]), f"CTs of {split}") as tick:
            for row in self.cases[split]:
                record = source[row]
                truth, predicted, grid = self._on_file(record, self._logits(network, record))
                if folder:
                    path = folder / f"{records.text(record['id'])}.nii.gz"
                    folder.mkdir(parents=True, exist_ok=True)
                    maps.write_whole(path, functools.partial(nibabel.save, scan_grid.nifti(predicted, grid)))
                yield truth, predicted, tuple(affines.voxel_sizes(grid))
                tick(1)

    def _on_file(
        self, record: Mapping[str, Any], logits: Float[np.ndarray, "z y x c"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth and predicted classes on the file's voxels and the affine of these; on the record's without them."""
        target = self.config.target
        field = ON_FILE + dense.TARGETS[target]
        if field in record:
            places = scan_grid.Places(record["affine"], tuple(record["original_shape"]), record["original_affine"])
            truth = dense.classes(record[field], target)
            return truth, scan_grid.classes(logits, places, decide), places.file
        whole = record.get("affine", np.diag([*record["spacing_mm"], 1.0])[[2, 1, 0, 3]].astype(np.float64))
        return dense.truth(record, target), decide(logits), whole

    def _logits(self, network: Network, record: Mapping[str, Any]) -> Float[np.ndarray, "z y x c"]:
        return self.segmenter.predict(network, record["volume"], self.recipe.fit.batch)
