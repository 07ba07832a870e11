"""Whether X-rays and CTs lie in one space, as one number for each patient, from which means can be resampled.

The same measures as `retrieval` and `gap`, which give the means alone.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from unimedi_jax.metrics import chance, vectors
from unimedi_jax.metrics.gap import FOLDS
from unimedi_jax.metrics.retrieval import DECIMALS

NOBODY = -2.0  # below every cosine: a candidate that is not to be retrieved
Cloud = Float[np.ndarray, "n e"]


def own_hits(z_query: Cloud, z_candidate: Cloud, k: int) -> Float[np.ndarray, " n"]:
    """Whether the candidate of the same patient (row i of both) is among the k nearest, ties by their chance."""
    similarity = np.round(vectors.unit_rows(z_query) @ vectors.unit_rows(z_candidate).T, DECIMALS)
    return chance.top_k_hit(similarity, np.eye(len(similarity), dtype=bool), k)


def precision(
    z_query: Cloud,
    z_candidate: Float[np.ndarray, "m e"],
    finding_query: Int[np.ndarray, " n"],
    finding_candidate: Int[np.ndarray, " m"],
    k: int,
    *,
    same: bool = False,
) -> Float[np.ndarray, " n"]:
    """Share of the k nearest candidates that have the finding of the query; NaN for queries without a single one.

    A negative finding (several, unknown) leaves a row out of queries and candidates. `same`: queries and candidates
    are the same rows, and none retrieves itself.
    """
    queries, candidates = np.asarray(finding_query) >= 0, np.asarray(finding_candidate) >= 0
    result = np.full(len(queries), np.nan)
    similarity = np.round(vectors.unit_rows(z_query) @ vectors.unit_rows(z_candidate).T, DECIMALS)
    correct = np.asarray(finding_query)[:, None] == np.asarray(finding_candidate)[None, :]
    if same:
        np.fill_diagonal(similarity, NOBODY)
        np.fill_diagonal(correct, False)
    similarity, correct = (values[np.ix_(queries, candidates)] for values in (similarity, correct))
    if similarity.shape[1] > k:
        result[queries] = chance.top_k_share(similarity, correct, k)
    return result


def modality_correct(a: Cloud, b: Float[np.ndarray, "m e"], *, seed: int = 0) -> Float[np.ndarray, " nm"]:
    """Whether a linear classifier that has not learnt from a row tells its cloud: 1 or 0, rows of `a`, then of `b`.

    The classifier and its folds are those of `gap.modality_gap`, whose accuracy is the mean of the two clouds' means.
    NaN for clouds of fewer than 2 rows.
    """
    z = np.concatenate([vectors.unit_rows(a), vectors.unit_rows(b)])
    side, folds = np.repeat([0, 1], [len(a), len(b)]), min(FOLDS, len(a), len(b))
    if folds < 2:
        return np.full(len(z), np.nan)
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return (cross_val_predict(classifier, z, side, cv=split) == side).astype(float)


def separation(z: Cloud, finding: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Silhouette (cosine) of each row grouped by finding; NaN for negative findings, or where there are no groups."""
    finding = np.asarray(finding)
    rows = finding >= 0
    result = np.full(len(finding), np.nan)
    if 2 <= len(np.unique(finding[rows])) < rows.sum():
        result[rows] = silhouette_samples(vectors.unit_rows(z)[rows], finding[rows], metric="cosine")
    return result
