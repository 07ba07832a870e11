"""Whether the slices that eq. 2 chooses show the lesion, beside blind choices of slices."""

import numpy as np

from data.errors import UserError
from unimedi_jax.config.jobs import EvaluateConfig
from unimedi_jax.evaluation import results, trials
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
from unimedi_jax.metrics import slices

TASK = "slices"


def evaluate(trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig) -> list[results.Result]:
    """Slice hit rates of a set's test CTs, the exact rate of a random choice in these CTs, and the rate of the layers
    that hit most training CTs.

    `any` counts every slice with a lesion; `centre` those within three slices of its middle, as the paper on LUNA16.

    Raises:
        UserError: no lesion masks, or a network without slices.
    """
    if "lesion_mask" not in dataset.contract["truth"] or not dataset.size("ct", "test"):
        raise UserError("no CT test records with a lesion mask")
    k, names = trained.model.slices, [*dataset.contract["labels"], "unstated"]
    if not k:
        raise UserError("the model was trained without slices")
    trained.check(dataset, ("ct",))
    embedder = trained.embedder(rows=config.rows, ct_slices=False)
    sampler = trained.sampler("ct", keep=("report", "labels", "lesion_mask"))
    train = dataset.source("ct", "train", ("lesion_mask",)) if dataset.size("ct", "train") else ()
    lesions = [slices.lesion_slices(record["lesion_mask"][None], len(names) - 1)[0] for record in train]
    table = []
    for encoder in trials.encoders(config):
        part = features.embed(embedder, trained.encoder(encoder), dataset, sampler, "test")
        rates = slices.by_finding(part.slice_scores, part.lesions, k, names, resamples=config.resamples)
        layers = part.slice_scores.shape[1]
        fixed = slices.fixed_rates(np.stack(lesions), part.lesions, names, layers=layers, k=k) if lesions else {}
        near = slices.around_centre(part.lesions)
        rates["centre"] = slices.hit_rate(part.slice_scores, near, k, resamples=config.resamples)
        shared = dict(task=TASK, data=dataset.name, modality="ct", encoder=encoder)
        for finding, rate in rates.items():
            scalars = {f"{finding}/{key}": value for key, value in rate.scalars().items()} if rate.cases else {}
            if finding in fixed:
                scalars[f"{finding}/fixed_rate"] = fixed[finding]
            table += results.of(scalars, cases=rate.cases, **shared)
    return table
