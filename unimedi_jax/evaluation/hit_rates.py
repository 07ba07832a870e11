"""Whether the slices that eq. 2 chooses show the lesion, beside blind choices of slices."""

import dataclasses
import functools
import itertools

import numpy as np

from data import progress
from data.errors import UserError
from unimedi_jax.config.jobs import EvaluateConfig
from unimedi_jax.evaluation import results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records, transforms
from unimedi_jax.metrics import label_keys, slices

TASK = "slices"
RATES = ("hit_rate", "random_rate", "fixed_rate")
# Of nodules apart: they are small, and may be in any layer.
METRICS = (
    *(f"any/{rate}" for rate in RATES),
    "any/layer_share",
    *(f"nodule/{rate}" for rate in RATES),
    "centre/hit_rate",
    "centre/random_rate",
)


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """Slice hit rates of a set's test CTs, the exact rate of a random choice in these CTs, and that of the layers that
    hit most CTs of validation (of training, in a set without these); how much of the scores is position.

    `any` counts every slice with a lesion; `centre` those within three slices of its middle, as the paper on LUNA16.
    The rows of an encoder are a part of `outputs`.

    Raises:
        UserError: no lesion masks, or a network without slices.
    """
    if "lesion_mask" not in dataset.contract["truth"] or not dataset.size("ct", "test"):
        raise UserError("no CT test records with a lesion mask")
    if not trained.model.slices:
        raise UserError("the model was trained without slices")
    trained.check(dataset, ("ct",))
    task, outputs = HitRates(trained, dataset, config), outputs or Outputs()
    measured = (
        outputs.part(functools.partial(task.measure, encoder), config, [dataset], task=TASK, encoder=encoder)
        for encoder in trials.encoders(config)
    )
    return list(itertools.chain(*measured))


@dataclasses.dataclass(frozen=True)
class HitRates:
    """Hit rates of one set; what the encoders share is computed once, for the first of them."""

    trained: Pretrained
    dataset: records.RecordSet
    config: EvaluateConfig

    @functools.cached_property
    def embedder(self) -> features.Embedder:
        """The volume alone scores its slices: whether they go in with it makes no difference here."""
        return features.Embedder.of(self.trained.model, self.trained.mesh, rows=self.config.rows, ct_slices=False)

    @functools.cached_property
    def choosing(self) -> slices.Lesions | None:
        """The lesions of the CTs that choose the fixed layers."""
        return lesions(self.dataset, "val" if self.dataset.size("ct", "val") else "train", self.sampler)

    @functools.cached_property
    def sampler(self) -> transforms.ToSample:
        """Records to what the network sees of them, their masks too."""
        return self.trained.sampler("ct", keep=("report", "labels", "patient", "lesion_mask"))

    def measure(self, encoder: str, part: Part) -> None:
        """The rows of the "trained" or "untrained" encoder."""
        k, names = self.trained.model.slices, [*label_keys.of(self.dataset.contract["labels"]), "unstated"]
        embedded = features.embed(self.embedder, self.trained.encoder(encoder), self.dataset, self.sampler, "test")
        drawn = {"resamples": self.config.resamples, "patients": embedded.patients}
        rates = slices.by_finding(embedded.slice_scores, embedded.lesions, k, names, choosing=self.choosing, **drawn)
        near = slices.around_centre(embedded.lesions)
        rates["centre"] = slices.hit_rate(embedded.slice_scores, near, k, **drawn)
        shared = dict(task=TASK, data=self.dataset.name, modality="ct", encoder=encoder)
        share = {"any/layer_share": slices.layer_share(embedded.slice_scores)}
        part.rows += results.of(share, cases=len(embedded.slice_scores), **shared)
        for finding, rate in rates.items():
            scalars = {f"{finding}/{key}": value for key, value in rate.scalars().items()} if rate.cases else {}
            part.rows += results.of(scalars, cases=rate.cases, **shared)


def lesions(dataset: records.RecordSet, split: str, sampler: transforms.ToSample) -> slices.Lesions | None:
    """Which slices of the CTs of a split, as `sampler` sees them, hold which finding; None without CTs."""
    if not dataset.size("ct", split):
        return None
    findings, masks = len(dataset.contract["labels"]), dataset.source("ct", split, ("lesion_mask",))
    with progress.shown(len(masks), f"lesion masks of {split}") as tick:
        cut_masks = (sampler.view("lesion_mask", record["lesion_mask"]) for record in masks if not tick(1))
        rows = [slices.lesion_slices(mask[None], findings) for mask in cut_masks]
    return np.concatenate(rows)
