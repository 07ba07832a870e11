"""Zero-shot classification: an image against a pair of prompt ensembles per finding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unimedi_jax.metrics import auroc, vectors

Images = Float[np.ndarray, "n e"]
Prompts = Sequence[Float[np.ndarray, "p e"]]  # an ensemble for each finding


def scores(z_image: Images, z_positive: Prompts, z_negative: Prompts) -> Float[np.ndarray, "n c"]:
    """Similarity to the positive minus similarity to the negative ensemble, one column per finding.

    An ensemble is the normalised mean of its normalised prompts; the numbers of prompts may differ.
    """
    z_image = vectors.unit_rows(z_image)
    pairs = zip(z_positive, z_negative, strict=True)
    columns = [z_image @ (_ensemble(positive) - _ensemble(negative)) for positive, negative in pairs]
    return np.stack(columns, axis=1) if columns else np.zeros((len(z_image), 0))


def auc(
    z_image: Images,
    z_positive: Prompts,
    z_negative: Prompts,
    labels: Float[np.ndarray, "n c"],
    *,
    resamples: int = 0,
    seed: int = 0,
) -> auroc.LabelAuc:
    """Zero-shot AUC per finding; `z_positive[j]`, `z_negative[j]` hold the prompts of label j."""
    similarity = scores(z_image, z_positive, z_negative)
    return auroc.per_label(similarity, labels, resamples=resamples, seed=seed)


def _ensemble(prompts: Float[np.ndarray, "p e"]) -> Float[np.ndarray, " e"]:
    if not len(prompts):
        raise ValueError("a finding needs at least one positive and one negative prompt")
    return vectors.unit_rows(vectors.unit_rows(prompts).mean(axis=0, keepdims=True))[0]
