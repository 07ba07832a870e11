"""Shares of a training set, for experiments with few labels."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

SMALLEST = 2  # rows: fewer hold no two classes
PUBLISHED_SEED = 42  # of MGCA's draws and trainings
# MGCA's jobs of pictures make their training set to count its steps, and again to train on: numpy's stream goes on.
MADE = 2


def stratified(labels: Float[np.ndarray, "n c"], share: float, *, seed: int) -> Int[np.ndarray, " m"]:
    """Sorted rows of a seeded draw of `share` of the cases, every pattern of labels in its proportion.

    Unknown labels are part of the pattern. Smaller shares of the same seed lie inside larger ones.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share must be above 0 and at most 1, not {share}")
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    tie = rng.permutation(len(labels))
    place, patterns = np.zeros(len(labels)), np.zeros(len(labels), int)
    if labels.shape[1]:
        patterns = np.unique(np.where(np.isnan(labels), 2, labels), axis=0, return_inverse=True)[1].ravel()
    for pattern in range(patterns.max(initial=-1) + 1):
        rows = np.flatnonzero(patterns == pattern)
        # Each pattern's cases are spread evenly over [0, 1): any cut takes the same part of all of them.
        place[rows] = (rng.permutation(len(rows)) + rng.random()) / len(rows)
    order = np.lexsort((tie, place))
    return np.sort(order[: size(len(labels), share)])


def published(labels: Float[np.ndarray, "n c"], share: float, *, seed: int, rounded: bool) -> Int[np.ndarray, " m"]:
    """Rows that MGCA's code draws, whatever their labels, in the order of its draw; at a share of 1 all, in order.

    Its classification has `DataFrame.sample(frac=share, random_state=seed)`, which rounds the number of rows; its
    segmentation and detection `np.random.choice(n, int(share * n), replace=False)`, which is not `rounded`, MADE times.
    """
    count = len(labels)
    if share == 1:
        return np.arange(count)
    state = np.random.RandomState(seed)
    if rounded:
        return state.choice(count, round(share * count), replace=False)
    return [state.choice(count, int(share * count), replace=False) for _ in range(MADE)][-1]


def balanced(labels: Float[np.ndarray, "n 1"], share: float, *, seed: int) -> Int[np.ndarray, " m"]:
    """Rows that MGCA's code draws of SIIM: all X-rays with pneumothorax and as many without, and of these a share.

    The rows are in the order of its training table, as `data/sets/siim.py` leaves them.
    """
    positive, negative = (np.flatnonzero((labels[:, 0] == 1) == side) for side in (True, False))
    state, count = np.random.RandomState(seed), min(len(positive), len(negative))
    for _ in range(MADE):
        rows = np.concatenate([positive, np.sort(state.choice(negative, count, replace=False))])
        if share != 1:
            rows = state.choice(rows, int(share * len(rows)), replace=False)
    return rows


def of_protocol(name: str, kind: str = "") -> Callable[..., Int[np.ndarray, " m"]]:
    """How decoders and detectors draw a share of the training cases of a `kind` of set, as `fit.train` takes it."""
    if name != "mgca":
        return stratified
    return balanced if kind == "siim" else functools.partial(published, rounded=False)


def size(cases: int, share: float) -> int:
    """How many of so many cases a share draws."""
    return min(max(round(share * cases), SMALLEST), cases)
