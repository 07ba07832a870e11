"""How far apart two kinds of embeddings lie, and how well findings separate across them.

The gap is Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive
Representation Learning", NeurIPS 2022 (arXiv 2203.02053): the distance between the centroids of the
two normalised clouds. UniMedI's claim is that X-ray and CT merge while classes stay apart.

Embeddings z after BatchNorms by modality (`model.norm_by_modality`) have their gap equalised by
construction: each modality's features are normalised to the same mean and variance, whatever the
encoder does. What the encoder has merged shows on its CLS, before the projection.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

from unimedi_jax.metrics import vectors

FOLDS = 5
SILHOUETTE_ROWS = 2000  # the silhouette needs all pairs


class Gap(NamedTuple):
    """Distance of the centroids (0 to 2), accuracy of a linear classifier between the clouds."""

    distance: float
    accuracy: float  # balanced: 0.5 is a merged pair of clouds whatever their sizes, 1 a separable one


def modality_gap(a: Float[np.ndarray, "n e"], b: Float[np.ndarray, "m e"], *, seed: int = 0) -> Gap:
    """Gap between two clouds of embeddings, each row first scaled to length 1.

    The accuracy is the balanced accuracy of an L2 logistic regression under stratified 5-fold
    cross-validation. An empty cloud gives NaN; fewer than 2 rows in one give accuracy NaN.
    """
    a, b = vectors.unit_rows(a), vectors.unit_rows(b)
    if not len(a) or not len(b):
        return Gap(float("nan"), float("nan"))
    distance = float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))
    folds = min(FOLDS, len(a), len(b))
    if folds < 2:
        return Gap(distance, float("nan"))
    z, side = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    accuracy = cross_val_score(classifier, z, side, cv=split, scoring="balanced_accuracy")
    return Gap(distance, float(accuracy.mean()))


def class_separation(z: Float[np.ndarray, "n e"], finding: Int[np.ndarray, " n"], *, seed: int = 0) -> float:
    """Mean silhouette (cosine) of embeddings grouped by finding: 1 apart, 0 mixed, -1 crossed.

    A negative `finding` (none, several, unknown) leaves its row out. NaN unless there are two
    findings and a finding with two rows. Above 2,000 rows a seeded draw of 2,000 is measured.
    """
    z, finding = vectors.unit_rows(z), np.asarray(finding)
    if len(z) != len(finding):
        raise ValueError(f"{len(z)} embeddings, {len(finding)} findings")
    z, finding = z[finding >= 0], finding[finding >= 0]
    if len(z) > SILHOUETTE_ROWS:
        rows = np.random.default_rng(seed).choice(len(z), SILHOUETTE_ROWS, replace=False)
        z, finding = z[rows], finding[rows]
    if not 2 <= len(np.unique(finding)) < len(z):
        return float("nan")
    return float(silhouette_score(z, finding, metric="cosine"))
