"""The bootstrap against scipy's, its seed and its empty cases; by patient against a slow one of its own."""

from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from unimedi_jax.metrics import (
    auroc,
    bootstrap,
    classification,
    detection,
    froc,
    paired,
    retrieval,
    segmentation,
    slices,
)


def test_close_to_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=120)
    bounds = bootstrap.mean_interval(values, resamples=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval
    assert bounds == pytest.approx(tuple(theirs), abs=0.02)


def test_seed_decides_everything() -> None:
    values = np.random.default_rng(0).normal(size=30)
    first, again, other = (bootstrap.mean_interval(values, resamples=50, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 1.0]])
def test_fewer_than_two_cases_have_no_interval(values: list[float]) -> None:
    assert np.isnan(bootstrap.mean_interval(np.array(values), resamples=10)).all()


def test_no_resamples_no_interval() -> None:
    assert np.isnan(bootstrap.mean_interval(np.arange(5.0), resamples=0)).all()


def test_an_interval_needs_half_of_the_resamples():
    """Ten labels of one positive case each are all in a resample once in hundreds: no interval of their mean."""
    rng = np.random.default_rng(0)
    for rare, known in ((10, False), (1, True)):  # a case is in 63 % of the resamples
        targets = np.zeros((60, 3 + rare))
        targets[:, :3] = rng.random((60, 3)) < 0.4
        targets[rng.integers(60, size=rare), np.arange(3, 3 + rare)] = 1
        scores = rng.normal(size=targets.shape) + targets
        auc = auroc.per_label(scores, targets, resamples=400)
        names = [str(column) for column in range(3 + rare)]
        measured = classification.measure(1 / (1 + np.exp(-scores)), targets, names, resamples=400)
        estimate = paired.auc(scores, targets, paired.patients(60, resamples=400, seed=0))
        bounds = (auc.macro_low, measured["auroc/macro/low"], measured["auprc/macro/low"], estimate.interval[0])
        assert [not np.isnan(low) for low in bounds] == [known] * 4
        assert not np.isnan([auc.macro, auc.macro10_low, measured["auroc/macro10/low"]]).any()
        assert (estimate.p_value < 1) == known
    assert bootstrap.percentiles(np.array([0.0, 1.0, np.nan, np.nan])) == (0.025, 0.975)
    assert np.isnan(bootstrap.percentiles(np.array([0.0, np.nan, np.nan]))).all()


# ---- three pictures a patient, held against a bootstrap that copies whole patients ----

RESAMPLES, SEED = 60, 3
PATIENTS = [f"patient {row // 3}" for row in range(36)]  # three pictures each
ORDER = np.random.default_rng(1).permutation(36)  # of the pictures: a patient's do not lie side by side
NAMES = [PATIENTS[row] for row in ORDER]


def slow(statistic: Callable[[list[int]], float]) -> tuple[float, float]:
    """Percentiles of a statistic of rows, every resample a list of rows made patient by patient."""
    names = list(dict.fromkeys(NAMES))
    rng, values = np.random.default_rng(SEED), []
    for drawn in rng.integers(0, len(names), size=(RESAMPLES, len(names))):
        rows = [row for patient in drawn for row, name in enumerate(NAMES) if name == names[patient]]
        values.append(statistic(rows))
    defined = sorted(value for value in values if not np.isnan(value))
    return float(np.percentile(defined, 2.5)), float(np.percentile(defined, 97.5))


def auc(targets: np.ndarray, scores: np.ndarray) -> float:
    return sklearn.metrics.roc_auc_score(targets, scores) if 0 < targets.sum() < len(targets) else np.nan


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets of two labels, pictures of a patient alike."""
    rng = np.random.default_rng(0)
    of_patient = rng.normal(size=(12, 2))
    scores = np.array([of_patient[row // 3] for row in ORDER]) + 0.2 * rng.normal(size=(36, 2))
    return scores, (scores + rng.normal(size=(36, 2)) > 0).astype(float)


def test_areas_and_accuracy_by_patient(scored) -> None:
    scores, targets = scored
    drawn = {"resamples": RESAMPLES, "seed": SEED, "patients": NAMES}
    measured = auroc.per_label(scores, targets, **drawn)
    for column in range(2):
        by_hand = slow(lambda rows, c=column: auc(targets[rows, c], scores[rows, c]))
        assert (measured.low[column], measured.high[column]) == pytest.approx(by_hand, abs=1e-12)
    probabilities = 1 / (1 + np.exp(-scores))
    values = classification.measure(probabilities, targets, ["a", "b"], **drawn)
    theirs = {
        "auroc": auc,
        "auprc": sklearn.metrics.average_precision_score,
        "accuracy": lambda target, score: sklearn.metrics.accuracy_score(target, score >= 0.5),
    }
    for kind, statistic in theirs.items():
        interval = values[f"{kind}/macro/low"], values[f"{kind}/macro/high"]
        by_hand = slow(
            lambda rows, s=statistic: np.mean([s(targets[rows, c], probabilities[rows, c]) for c in range(2)])
        )
        assert interval == pytest.approx(by_hand, abs=1e-12), kind


def test_means_of_rows_by_patient() -> None:
    rng = np.random.default_rng(2)
    values = rng.random((36, 2, 3))
    drawn = {"resamples": RESAMPLES, "seed": SEED, "patients": NAMES}
    dice = segmentation.summarise(values, np.ones((36, 2), bool), ["a", "b"], **drawn)
    by_hand = slow(lambda rows: values[rows, :, 0].mean())
    assert (dice["dice/mean/low"], dice["dice/mean/high"]) == pytest.approx(by_hand, abs=1e-12)

    values[:, 1][rng.random(36) < 0.6] = np.nan  # a structure that fewer cases have, by absent=skip
    values[:, 1] -= 0.8  # and that is worse
    dice = segmentation.summarise(values, ~np.isnan(values[:, :, 0]), ["a", "b"], **drawn)
    by_hand = slow(lambda rows: np.mean([np.nanmean(values[rows, c, 0]) for c in range(2)]))
    assert (dice["dice/mean/low"], dice["dice/mean/high"]) == pytest.approx(by_hand, abs=1e-12)
    assert dice["dice/mean/low"] < dice["dice/mean"] < dice["dice/mean/high"]

    scores, lesion = rng.random((36, 4)), rng.random((36, 4)) < 0.4
    lesion[:, 0], lesion[:, 1] = True, False  # something to hit, something to miss
    rate = slices.hit_rate(scores, lesion, 1, **drawn)
    hits = lesion[np.arange(36), scores.argmax(axis=1)]
    assert (rate.low, rate.high) == pytest.approx(slow(lambda rows: hits[rows].mean()), abs=1e-12)

    z = rng.normal(size=(36, 5))
    near = z + rng.normal(size=z.shape)
    recall = retrieval.recall(near, z, np.arange(36), ks=(1,), **drawn)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (near, z)]
    first = (unit[0] @ unit[1].T).argmax(axis=1) == np.arange(36)
    by_hand = slow(lambda rows: first[rows].mean())
    assert (recall["i2t_r1/low"], recall["i2t_r1/high"]) == pytest.approx(by_hand, abs=1e-12)


def test_rows_left_out_leave_their_patient_the_others() -> None:
    """Queries without a finding, and NaN among the values of a mean."""
    rng = np.random.default_rng(4)
    values = np.where(rng.random(36) < 0.3, np.nan, rng.random(36))
    names = [name for name, value in zip(NAMES, values, strict=True) if not np.isnan(value)]
    drawn = {"resamples": RESAMPLES, "seed": SEED}
    whole = bootstrap.mean_interval(values, patients=NAMES, **drawn)
    assert whole == bootstrap.mean_interval(values[~np.isnan(values)], patients=names, **drawn)
    z, finding = rng.normal(size=(36, 4)), rng.integers(-1, 2, 36)
    rows = np.flatnonzero(finding >= 0)
    some = retrieval.by_finding(z, z, finding, finding, ks=(5,), patients=NAMES, **drawn)
    others = [NAMES[row] for row in rows]
    left = retrieval.by_finding(z[rows], z[rows], finding[rows], finding[rows], ks=(5,), patients=others, **drawn)
    assert some == left


def test_boxes_and_candidates_by_patient() -> None:
    rng = np.random.default_rng(5)
    truth = np.array([[2.0, 2, 8, 8]])
    cases, scans = [], []
    for _ in range(36):
        moved = truth + rng.uniform(-2, 2)
        cases.append(detection.Case(moved, rng.random(1), truth))
        scans.append(froc.Scan(np.where(rng.random(2) < 0.3, np.nan, rng.random(2)), rng.random(3)))
    drawn = {"resamples": RESAMPLES, "seed": SEED, "patients": NAMES}
    measured = detection.measure(cases, **drawn)
    by_hand = slow(lambda rows: detection.measure([cases[row] for row in rows])["map"])
    assert (measured["map/low"], measured["map/high"]) == pytest.approx(by_hand, abs=1e-12)
    measured = froc.measure(scans, **drawn)
    by_hand = slow(lambda rows: froc.measure([scans[row] for row in rows])["froc"])
    assert (measured["froc/low"], measured["froc/high"]) == pytest.approx(by_hand, abs=1e-12)


def test_intervals_of_pictures_that_are_alike_are_wider_by_patient() -> None:
    """By the square root of three for the mean of three equal pictures each."""
    values = np.repeat(np.random.default_rng(6).normal(size=200), 3)
    names = np.repeat(np.arange(200), 3)
    by_row = np.diff(bootstrap.mean_interval(values, resamples=4000))[0]
    by_patient = np.diff(bootstrap.mean_interval(values, resamples=4000, patients=names))[0]
    assert by_patient / by_row == pytest.approx(3**0.5, rel=0.05)
    theirs = stats.bootstrap((values[::3],), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert by_patient == pytest.approx(np.diff(theirs.confidence_interval)[0], rel=0.05)


def test_one_picture_a_patient_is_drawn_as_without_names() -> None:
    names = [f"p{number}" for number in range(20)]
    plain = bootstrap.counts(20, resamples=30, seed=1)
    np.testing.assert_array_equal(bootstrap.counts(20, resamples=30, seed=1, patients=names), plain)
    np.testing.assert_array_equal(bootstrap.counts(20, resamples=30, seed=1, patients=[""] * 20), plain)


def test_a_single_patient_has_no_interval_and_names_must_fit() -> None:
    assert np.isnan(bootstrap.mean_interval(np.arange(5.0), patients=["a"] * 5)).all()
    assert "auroc/macro/low" not in classification.measure(
        np.array([[0.1], [0.9]]), np.array([[0.0], [1.0]]), ["x"], resamples=5, patients=["a", "a"]
    )
    with pytest.raises(ValueError, match="5 rows, 4 patients"):
        bootstrap.counts(5, resamples=2, seed=0, patients=["a"] * 4)
