"""AUROC, average precision, accuracy, sensitivity and specificity: for several labels or for exclusive classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from unimedi_jax.metrics import auroc, bootstrap, label_keys, vectors

THRESHOLD = 0.5
AREAS = ("auroc", "auprc")  # under curves
Table = Float[np.ndarray, "n c"]  # n cases, c labels or classes


def average_precision(
    scores: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"], counts: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Area under precision and recall as a sum of steps, tied scores entering together (scikit-learn's definition).

    Of each of r resamples, in which case i occurs `counts[:, i]` times. Targets are 0, 1 or NaN (skipped). Without a
    positive there is no recall: NaN. Positives alone give 1.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    known = ~np.isnan(targets)
    scores, targets, counts = scores[known], targets[known], counts[:, known]
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not scores.size:
        return np.full(len(counts), np.nan)
    order = np.argsort(-scores, kind="stable")
    scores, targets, counts = scores[order], targets[order], counts[:, order]
    last = np.append(scores[1:] != scores[:-1], True)  # of every group of tied scores
    hits, taken = (np.cumsum(each, axis=1)[:, last] for each in (counts * targets, counts))
    precision = hits / np.maximum(taken, 1)  # nothing taken yet: no hits
    total = hits[:, -1]
    area = (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1)
    return np.divide(area, total, out=np.full(len(counts), np.nan), where=total > 0)


def accuracy(
    probabilities: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"], counts: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Share of known targets on whose side of 0.5 the probability lies, 0.5 counting as present; NaN for none."""
    known = ~np.isnan(np.asarray(targets, np.float64))
    right = (np.asarray(probabilities)[known] >= THRESHOLD) == (np.asarray(targets)[known] == 1)
    return _share(right, counts[:, known])


def exclusive(labels: Float[np.ndarray, "n c"]) -> bool:
    """Whether the labels are classes of which every case has exactly one (COVIDx, CC-CCII)."""
    labels = np.asarray(labels)
    one_each = (labels.sum(axis=1) == 1).all() and np.isin(labels, (0, 1)).all()
    return bool(labels.size and labels.shape[1] > 1 and one_each)


def measure(
    probabilities: Table,
    targets: Table,
    names: Sequence[str],
    *,
    one_of: bool = False,
    resamples: int = 0,
    seed: int = 0,
    patients: bootstrap.Patients = None,
) -> dict[str, float]:
    """`auroc/<name>`, `auprc/<name>`, `accuracy/<name>`, their means over labels `.../macro`, and counts.

    Beside them `sensitivity/<name>` and `specificity/<name>` where the accuracy is measured: at 0.5, or of the most
    probable class with `one_of`.

    `auroc/macro10` and `auprc/macro10`, which headlines show, are means over the labels with at least 10 positives and
    10 negatives; `macro10/findings` counts these labels. A column of NaN (nothing could be fitted) has no result;
    `undefined` counts the labels without AUROC. With `one_of` the columns are exclusive classes and `accuracy/macro` is
    the share of cases whose most probable class is the right one, the earlier column winning ties. `<key>/low` and
    `<key>/high` bound macros, with `resamples`.
    """
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    if probabilities.shape != targets.shape or probabilities.shape[1:] != (len(names),):
        raise ValueError(f"probabilities {probabilities.shape}, labels {targets.shape}, {len(names)} names do not fit")
    names = label_keys.of(names)
    kinds = {"auroc": auroc.resampled, "auprc": average_precision, "accuracy": accuracy}
    whole = np.ones((1, len(targets)))
    enough = auroc.enough((targets == 1).sum(axis=0), (targets == 0).sum(axis=0))
    result: dict[str, float] = {}
    for kind, statistic in kinds.items():
        (values,) = bootstrap.columns(statistic, probabilities, targets, whole)
        result |= {f"{kind}/{name}": float(value) for name, value in zip(names, values, strict=True)}
        result[f"{kind}/macro"] = vectors.nan_mean(values)
        if kind in AREAS:
            result[f"{kind}/macro10"] = vectors.nan_mean(values[enough])
    result["macro10/findings"] = float(enough.sum())
    if one_of:
        result["accuracy/macro"] = float(_top(probabilities, targets, whole)[0])
    result |= _rates(probabilities, targets, names, one_of)
    for name, column in zip(names, targets.T, strict=True):
        result[f"positives/{name}"] = float((column == 1).sum())
        result[f"negatives/{name}"] = float((column == 0).sum())
    result["undefined"] = float(sum(np.isnan(result[f"auroc/{name}"]) for name in names))
    result["cases"] = float(len(targets))
    if bootstrap.resamples_of(len(targets), patients, resamples):
        counts = bootstrap.counts(len(targets), resamples=resamples, seed=seed, patients=patients)
        for kind, statistic in kinds.items():
            defined = np.array([not np.isnan(result[f"{kind}/{name}"]) for name in names], bool)
            if kind == "accuracy" and one_of:
                result |= _interval("accuracy/macro", _top(probabilities, targets, counts))
                continue
            tries = bootstrap.columns(statistic, probabilities, targets, counts)
            # A resample without a rare label's positives would be a macro over other labels: left out.
            result |= _interval(f"{kind}/macro", *tries[:, defined].T)
            if kind in AREAS:
                result |= _interval(f"{kind}/macro10", *tries[:, defined & enough].T)
    return result


def _rates(probabilities: Table, targets: Table, names: Sequence[str], one_of: bool) -> dict[str, float]:
    """`sensitivity/...` and `specificity/...` of every label and their means; NaN where there are no such cases."""
    called = probabilities >= THRESHOLD
    if one_of:
        called = np.arange(len(names)) == probabilities.argmax(axis=1)[:, None]
    unfitted = np.isnan(probabilities).all(axis=0)
    result = {}
    for kind, right, of in (("sensitivity", called, targets == 1), ("specificity", ~called, targets == 0)):
        cases = of.sum(axis=0)
        values = np.where(cases > 0, (right & of).sum(axis=0) / np.maximum(cases, 1), np.nan)
        values[unfitted] = np.nan
        result |= {f"{kind}/{name}": float(value) for name, value in zip(names, values, strict=True)}
        result[f"{kind}/macro"] = vectors.nan_mean(values)
    return result


def _interval(name: str, *tries: Float[np.ndarray, " r"]) -> dict[str, float]:
    """The interval of the mean of some columns of resamples under `<name>/low` and `<name>/high`; NaN for none."""
    low, high = bootstrap.percentiles(np.mean(tries, axis=0)) if tries else bootstrap.NONE
    return {f"{name}/low": low, f"{name}/high": high}


def _top(probabilities: Table, targets: Table, counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    known = ~np.isnan(targets).any(axis=1) & ~np.isnan(probabilities).any(axis=1)
    return _share(probabilities[known].argmax(axis=1) == targets[known].argmax(axis=1), counts[:, known])


def _share(right: Bool[np.ndarray, " n"], counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    cases = counts.sum(axis=1)
    return np.divide(counts @ right, cases, out=np.full(len(counts), np.nan), where=cases > 0)
