"""Linear probe: logistic regression on frozen features, one classifier per finding or one over exclusive classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unimedi_jax.metrics import auroc, bootstrap, logistic, vectors

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 strengths C, strongest regularisation first
VALIDATION_SHARE = 0.2


class Labelled(NamedTuple):
    """Features of n cases, their labels (1, 0, NaN unknown), and whose they are."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n c"]
    patients: bootstrap.Patients = None

    def take(self, rows: Int[np.ndarray, " m"]) -> "Labelled":
        """Some of the cases."""
        return Labelled(self.x[rows], self.y[rows], bootstrap.chosen(self.patients, rows))


def auc(
    train: Labelled,
    test: Labelled,
    val: Labelled | None = None,
    *,
    grid: Sequence[float] = GRID,
    one_of: bool = False,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> auroc.LabelAuc:
    """Test AUC per finding of `predict`; `patients` are those of `test`."""
    scores = predict(train, test.x, val, grid=grid, one_of=one_of, seed=seed)
    return auroc.per_label(scores, test.y, resamples=resamples, seed=seed, patients=patients)


class Classifier(NamedTuple):
    """A fitted probe: features are standardised, then weighted."""

    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]
    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    fitted: Bool[np.ndarray, " c"]  # False: a finding without both classes among the known labels
    one_of: bool = False

    def probabilities(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Of every finding; NaN where nothing could be fitted."""
        probabilities = logistic.probabilities(
            (x - self.mean) / self.scale, self.weights, self.bias, one_of=self.one_of
        )
        return np.where(self.fitted[None], probabilities, np.nan)


def predict(
    train: Labelled,
    test_x: Float[np.ndarray, "m d"],
    val: Labelled | None = None,
    *,
    grid: Sequence[float] = GRID,
    one_of: bool = False,
    seed: int = 0,
) -> Float[np.ndarray, "m c"]:
    """Test probabilities of `fit`; a finding that cannot be fitted is a column of NaN."""
    return fit(train, val, grid=grid, one_of=one_of, seed=seed).probabilities(test_x)


def fit(
    train: Labelled, val: Labelled | None = None, *, grid: Sequence[float] = GRID, one_of: bool = False, seed: int = 0
) -> Classifier:
    """An L2 logistic regression on standardised features.

    C is chosen on the validation rows by AUROC, per finding (by its mean with `one_of`, a softmax over exclusive
    classes), the stronger regularisation winning ties. Without `val` a seeded fifth of the training patients validates,
    and takes part in the last fit. A finding without both classes among the known labels cannot be fitted (an exclusive
    class without cases is merely improbable). Mean and scale come from the training rows alone.
    """
    refit = val is None
    if refit:
        val, train = _divided(train, seed)
    train_x, train_y, val_x, val_y, count = train.x, train.y, val.x, val.y, train.y.shape[1]
    if not len(train_x) or not count:
        width = train_x.shape[1]
        nothing = np.zeros((width, count)), np.zeros(count), np.zeros(width), np.ones(width)
        return Classifier(*nothing, np.zeros(count, bool), one_of)
    mean, scale = _standard(train_x)
    train_x, val_x = ((x - mean) / scale for x in (train_x, val_x))
    strengths = np.repeat(np.asarray(grid, np.float64)[:, None], count, axis=1)
    weights, bias = logistic.fit(train_x, train_y, strengths, one_of=one_of)
    best = _best(weights, bias, val_x, val_y, one_of)
    if refit:
        train_x, train_y = np.concatenate([train_x, val_x]), np.concatenate([train_y, val_y])
        weights, bias = logistic.fit(train_x, train_y, strengths[best, range(count)][None], one_of=one_of)
        best = np.zeros(count, int)
    chosen = weights[best, :, range(count)].T, bias[best, range(count)]
    fitted = np.array([one_of or {0.0, 1.0} <= set(column) for column in train_y.T])
    return Classifier(*chosen, mean, scale, fitted, one_of)


def _divided(whole: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """A seeded fifth of the patients, and the others: C must not be chosen on patients whom the fit has seen."""
    group = bootstrap.groups(len(whole.x), whole.patients)
    order = np.random.default_rng(seed).permutation(int(group.max(initial=-1)) + 1)
    place = np.argsort(order)[group]  # of each row's patient
    rows = np.argsort(place, kind="stable")
    cut = int((place < round(VALIDATION_SHARE * len(order))).sum())
    return whole.take(rows[:cut]), whole.take(rows[cut:])


def _standard(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    x = np.asarray(x, np.float64)
    scale = x.std(axis=0)
    # A dead feature's spread is rounding noise; dividing by it would make it the largest feature.
    floor = 1e-6 * np.maximum(np.abs(x).max(axis=0), 1e-12)
    return x.mean(axis=0), np.where(scale > floor, scale, 1.0)


def _best(
    weights: Float[np.ndarray, "s d c"],
    bias: Float[np.ndarray, "s c"],
    val_x: Float[np.ndarray, "v d"],
    val_y: Float[np.ndarray, "v c"],
    one_of: bool,
) -> Int[np.ndarray, " c"]:
    """Row of the strength of best validation AUROC for each column; the middle one where validation does not decide."""
    auc = np.full(bias.shape, np.nan)
    for row in range(len(bias)):
        scores = logistic.probabilities(val_x, weights[row], bias[row], one_of=one_of)
        auc[row] = [auroc.auroc(column, target) for column, target in zip(scores.T, val_y.T, strict=True)]
    if one_of:
        auc = np.repeat([[vectors.nan_mean(row)] for row in auc], bias.shape[1], axis=1)
    undecided = np.isnan(auc).any(axis=0)
    return np.where(undecided, len(bias) // 2, np.nan_to_num(auc, nan=-1.0).argmax(axis=0))
