"""Linear probe: logistic regression on frozen features, one classifier per finding."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from unimedi_jax.evals import auroc

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 strengths C, strongest regularisation first
VALIDATION_SHARE = 0.2


def auc(
    train_x: Float[np.ndarray, "n d"],
    train_y: Float[np.ndarray, "n c"],
    test_x: Float[np.ndarray, "m d"],
    test_y: Float[np.ndarray, "m c"],
    *,
    val_x: Float[np.ndarray, "v d"] | None = None,
    val_y: Float[np.ndarray, "v c"] | None = None,
    grid: Sequence[float] = GRID,
    resamples: int = 0,
    seed: int = 0,
) -> auroc.LabelAuc:
    """Test AUC per finding of an L2 logistic regression on standardised features.

    C is chosen per finding on the validation rows by AUC, the stronger regularisation winning ties,
    and the classifier is then fitted again on training and validation rows together. Without
    `val_x` a seeded fifth of the training rows validates. A finding without both classes among the
    known labels cannot be fitted and has AUC NaN. Mean and scale come from the training rows alone.
    """
    if (val_x is None) != (val_y is None):
        raise ValueError("give both val_x and val_y or neither")
    if val_x is None or val_y is None:
        order = np.random.default_rng(seed).permutation(len(train_x))
        cut = round(VALIDATION_SHARE * len(order))
        val_x, val_y = train_x[order[:cut]], train_y[order[:cut]]
        train_x, train_y = train_x[order[cut:]], train_y[order[cut:]]
    if not len(train_x):
        return auroc.per_label(np.full(np.shape(test_y), np.nan), test_y)
    mean, scale = _standard(train_x)
    train_x, val_x, test_x = ((x - mean) / scale for x in (train_x, val_x, test_x))
    scores = np.full((len(test_x), test_y.shape[1]), np.nan)
    for label in range(test_y.shape[1]):
        train, val = _known(train_x, train_y[:, label]), _known(val_x, val_y[:, label])
        strength = _strength(train, val, grid)
        both = tuple(np.concatenate(parts) for parts in zip(train, val, strict=True))
        if len(np.unique(both[1])) == 2:
            scores[:, label] = _fit(*both, strength).decision_function(test_x)
    return auroc.per_label(scores, test_y, resamples=resamples, seed=seed)


def _standard(
    x: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    x = np.asarray(x, np.float64)
    scale = x.std(axis=0)
    # A dead feature's spread is rounding noise; dividing by it would make it the largest feature.
    floor = 1e-6 * np.maximum(np.abs(x).max(axis=0), 1e-12)
    return x.mean(axis=0), np.where(scale > floor, scale, 1.0)


def _known(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    keep = ~np.isnan(y)
    return x[keep], y[keep]


def _strength(train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], grid: Sequence[float]) -> float:
    """The C with the best validation AUC; the middle of the grid where validation cannot tell."""
    if len(np.unique(train[1])) < 2 or len(np.unique(val[1])) < 2:
        return grid[len(grid) // 2]
    found = [auroc.auroc(_fit(*train, c).decision_function(val[0]), val[1]) for c in grid]
    return grid[int(np.argmax(found))]


def _fit(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], strength: float) -> LogisticRegression:
    classifier = LogisticRegression(C=strength, solver="lbfgs", max_iter=300)
    with warnings.catch_warnings():
        # Separable data at weak regularisation crawls: the ranking settles long before the weights.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(x, y)
