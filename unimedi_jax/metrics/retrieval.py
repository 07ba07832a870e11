"""Report retrieval: recall at k from image to report and from report to image.

Cosine similarity, ranked over all pairs of the split. Pairs with the same report are correct
answers to each other: the report of a normal X-ray has hundreds of equals.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from unimedi_jax.metrics import bootstrap, chance, pooling, vectors

ROWS = 1024  # queries ranked at a time: bounds memory at ROWS x n float64
# Equal embeddings give similarities that differ in the last bits of a product: to 1e-9, ties.
DECIMALS = 9
RATES = (("p", chance.top_k_share), ("hit", chance.top_k_hit))  # of candidates with the query's finding


def recall(
    z_image: Float[np.ndarray, "n e"],
    z_text: Float[np.ndarray, "n e"],
    groups: Sequence[str] | Int[np.ndarray, " n"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, float]:
    """Recall at k of n image-report pairs, row i of both being one pair.

    `groups`: the reports themselves or any group ids; equal entries are correct for each other.
    Returns `i2t_r{k}`, `t2i_r{k}`, `chance_r{k}` (the exact expectation of a random ranking for
    these groups, the same both ways), `pairs` and `distinct`; with `resamples` also `.../low` and
    `.../high` of the recalls.
    Ties count by the expectation over their random order. No pairs: NaN. One pair: 1, and chance 1.
    """
    z_image, z_text = vectors.unit_rows(z_image), vectors.unit_rows(z_text)
    if z_image.shape != z_text.shape or len(groups) != len(z_image):
        raise ValueError(f"{z_image.shape} images, {z_text.shape} texts, {len(groups)} groups")
    group, first = pooling.groups(groups)  # numpy would make every report as wide as the longest
    members = np.bincount(group, minlength=1)[group]
    result = {"pairs": float(len(group)), "distinct": float(len(first))}
    for k in ks:
        for name, query, candidate in (("i2t", z_image, z_text), ("t2i", z_text, z_image)):
            hits = _hits(query, candidate, group, k)
            drawn = {"resamples": resamples, "seed": seed, "patients": patients}
            result |= bootstrap.mean_scalars(f"{name}_r{k}", hits, **drawn)
        lucky = chance.hit_probability(np.full(len(group), len(group)), members, np.array(k))
        result[f"chance_r{k}"] = vectors.nan_mean(lucky)
    return result


def nearest(
    z_query: Float[np.ndarray, "q e"], z_candidate: Float[np.ndarray, "c e"], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k most similar candidates of every query and their cosine similarities, best first.

    Ties keep the order of the candidates; k beyond c counts as c.
    """
    similarity = vectors.unit_rows(z_query) @ vectors.unit_rows(z_candidate).T
    order = np.argsort(-np.round(similarity, DECIMALS), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def _hits(
    query: Float[np.ndarray, "n e"], candidate: Float[np.ndarray, "n e"], group: Int[np.ndarray, " n"], k: int
) -> Float[np.ndarray, " n"]:
    """Per query, whether one of its group is among the k nearest candidates."""
    hits = np.zeros(len(query))
    for start in range(0, len(query), ROWS):
        rows = slice(start, start + ROWS)
        similarity = np.round(query[rows] @ candidate.T, DECIMALS)
        hits[rows] = chance.top_k_hit(similarity, group[rows, None] == group[None, :], k)
    return hits


def by_finding(
    z_query: Float[np.ndarray, "q e"],
    z_candidate: Float[np.ndarray, "c e"],
    finding_query: Int[np.ndarray, " q"],
    finding_candidate: Int[np.ndarray, " c"],
    *,
    ks: Sequence[int] = (5, 10, 100),
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, float]:
    """Precision and hit rate at k of candidates of the query's finding: across modalities, or CheXpert 5x200's.

    `patients` are those of the queries. A negative finding (several, unknown) leaves its row out on both sides.
    `p{k}`: mean share of the first k
    candidates with the query's finding; `hit{k}`: share of queries with at least one; `chance_p{k}`, `chance_hit{k}`:
    their exact expectations under a random ranking; `queries`, `candidates`. Ties count by the expectation over their
    order; a k beyond the candidates counts as all of them. Nothing to rank: NaN.
    """
    patients = bootstrap.chosen(patients, np.flatnonzero(np.asarray(finding_query) >= 0))
    z_query, finding_query = _with_finding(z_query, finding_query)
    z_candidate, finding_candidate = _with_finding(z_candidate, finding_candidate)
    total = len(z_candidate)
    result = {"queries": float(len(z_query)), "candidates": float(total)}
    if not len(z_query) or not total:
        return result | {f"{kind}{k}": float("nan") for k in ks for kind in ("p", "hit", "chance_p", "chance_hit")}
    rates = [(f"{name}{k}", rate, k) for k in ks for name, rate in RATES]
    values, right = {name: np.zeros(len(z_query)) for name, _, _ in rates}, np.zeros(len(z_query), int)
    for start in range(0, len(z_query), ROWS):
        rows = slice(start, start + ROWS)
        correct = finding_query[rows, None] == finding_candidate[None, :]
        similarity = np.round(z_query[rows] @ z_candidate.T, DECIMALS)
        right[rows] = correct.sum(axis=1)
        for name, rate, k in rates:
            values[name][rows] = rate(similarity, correct, k)
    for k in ks:
        for name in (f"{kind}{k}" for kind, _ in RATES):
            result |= bootstrap.mean_scalars(name, values[name], resamples=resamples, seed=seed, patients=patients)
        result[f"chance_p{k}"] = vectors.nan_mean(right / total)
        result[f"chance_hit{k}"] = vectors.nan_mean(chance.hit_probability(np.array(total), right, np.array(k)))
    return result


def _with_finding(z: np.ndarray, finding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(finding) >= 0
    return vectors.unit_rows(z)[rows], np.asarray(finding)[rows]


def balanced(finding: Int[np.ndarray, " n"], each: int, *, seed: int = 0) -> Int[np.ndarray, " m"]:
    """Sorted rows of a seeded draw of at most `each` cases a finding (5x200: 200); negative findings stay out."""
    finding, rng = np.asarray(finding), np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(finding == value))[:each] for value in np.unique(finding[finding >= 0])]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)
