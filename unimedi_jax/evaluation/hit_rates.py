"""Whether the slices that eq. 2 chooses show the lesion, beside blind choices of slices."""

import numpy as np

from data import progress
from data.errors import UserError
from unimedi_jax.config.jobs import EvaluateConfig
from unimedi_jax.evaluation import results, trials
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
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


def evaluate(trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig) -> list[results.Result]:
    """Slice hit rates of a set's test CTs, the exact rate of a random choice in these CTs, and that of the layers that
    hit most CTs of validation (of training, in a set without these); how much of the scores is position.

    `any` counts every slice with a lesion; `centre` those within three slices of its middle, as the paper on LUNA16.

    Raises:
        UserError: no lesion masks, or a network without slices.
    """
    if "lesion_mask" not in dataset.contract["truth"] or not dataset.size("ct", "test"):
        raise UserError("no CT test records with a lesion mask")
    k, names = trained.model.slices, [*label_keys.of(dataset.contract["labels"]), "unstated"]
    if not k:
        raise UserError("the model was trained without slices")
    trained.check(dataset, ("ct",))
    # The volume alone scores its slices: whether they go in with it makes no difference here.
    embedder = features.Embedder.of(trained.model, trained.mesh, rows=config.rows, ct_slices=False)
    sampler = trained.sampler("ct", keep=("report", "labels", "lesion_mask"))
    choosing = lesions(dataset, "val" if dataset.size("ct", "val") else "train")
    table = []
    for encoder in trials.encoders(config):
        part = features.embed(embedder, trained.encoder(encoder), dataset, sampler, "test")
        settings = {"choosing": choosing, "resamples": config.resamples}
        rates = slices.by_finding(part.slice_scores, part.lesions, k, names, **settings)
        near = slices.around_centre(part.lesions)
        rates["centre"] = slices.hit_rate(part.slice_scores, near, k, resamples=config.resamples)
        shared = dict(task=TASK, data=dataset.name, modality="ct", encoder=encoder)
        share = {"any/layer_share": slices.layer_share(part.slice_scores)}
        table += results.of(share, cases=len(part.slice_scores), **shared)
        for finding, rate in rates.items():
            scalars = {f"{finding}/{key}": value for key, value in rate.scalars().items()} if rate.cases else {}
            table += results.of(scalars, cases=rate.cases, **shared)
    return table


def lesions(dataset: records.RecordSet, split: str) -> slices.Lesions | None:
    """Which slices of the CTs of a split hold which finding; None without CTs."""
    if not dataset.size("ct", split):
        return None
    findings, masks = len(dataset.contract["labels"]), dataset.source("ct", split, ("lesion_mask",))
    with progress.shown(len(masks), f"lesion masks of {split}") as tick:
        rows = [slices.lesion_slices(record["lesion_mask"][None], findings) for record in masks if not tick(1)]
    return np.concatenate(rows)
