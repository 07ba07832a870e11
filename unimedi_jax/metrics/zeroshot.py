"""Zero-shot classification: an image against prompts that assert and deny each finding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unimedi_jax.config.pretraining import SCORES
from unimedi_jax.metrics import auroc, bootstrap, vectors

Images = Float[np.ndarray, "n e"]
Prompts = Sequence[Float[np.ndarray, "p e"]]  # an ensemble for each finding
LARGEST = 4.0  # no score lies further from 0: "sum" adds two differences of cosines


def scores(z_image: Images, z_positive: Prompts, z_negative: Prompts, score: str) -> Float[np.ndarray, "n c"]:
    """How much an image looks like the prompts that assert a finding, one column per finding; 0 is undecided.

    The similarity to the finding's positive ensemble, minus

    - "difference": that to its negative ensemble (ranks as CheXzero's softmax over the pair does),
    - "others": the mean of those to the positive ensembles of all other findings, in which what makes an image look
      abnormal at all cancels,

    or the "sum" of both.

    A finding without negative prompts is scored against the others whatever `score` is, and a single finding against
    its negative prompts; a single finding without them has the similarity alone. An ensemble is the normalised mean
    of its normalised prompts; the numbers of prompts may differ.

    Raises:
        ValueError: another `score`, or a finding without a positive prompt.
    """
    if score not in SCORES:
        raise ValueError(f"a zero-shot score must be one of {', '.join(SCORES)}, not {score!r}")
    count = len(z_positive)
    if not count:
        return np.zeros((len(z_image), 0))
    z_image = vectors.unit_rows(z_image)
    asserted = np.stack([z_image @ _ensemble(prompts) for prompts in z_positive], axis=1)
    others = asserted - (asserted.sum(axis=1, keepdims=True) - asserted) / max(count - 1, 1)
    columns = []
    for own, against_others, denials in zip(asserted.T, others.T, z_negative, strict=True):
        if not len(denials):
            columns.append(against_others)
            continue
        difference = own - z_image @ _ensemble(denials)
        alone = score == "difference" or count == 1
        columns.append(difference if alone else against_others + (difference if score == "sum" else 0))
    return np.stack(columns, axis=1)


def auc(
    z_image: Images,
    z_positive: Prompts,
    z_negative: Prompts,
    labels: Float[np.ndarray, "n c"],
    *,
    score: str,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> auroc.LabelAuc:
    """Zero-shot AUC per finding; `z_positive[j]`, `z_negative[j]` hold the prompts of label j."""
    similarity = scores(z_image, z_positive, z_negative, score)
    return auroc.per_label(similarity, labels, resamples=resamples, seed=seed, patients=patients)


def _ensemble(prompts: Float[np.ndarray, "p e"]) -> Float[np.ndarray, " e"]:
    if not len(prompts):
        raise ValueError("a finding needs at least one positive prompt")
    return vectors.unit_rows(vectors.unit_rows(prompts).mean(axis=0, keepdims=True))[0]
