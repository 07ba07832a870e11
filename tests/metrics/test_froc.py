"""FROC of candidates against MONAI's and against LUNA16's arithmetic, written down threshold by threshold."""

import numpy as np
import pytest
from monai.metrics import compute_froc_curve_data, compute_froc_score

from unimedi_jax.metrics import froc

NONE = np.zeros((0, 4))


def random_scans(rng, count=12):
    """Scans of 0 to 4 nodules, the candidates at them and beside them, scored at random."""
    scans = []
    for _ in range(count):
        number = int(rng.integers(0, 5))
        nodules = np.column_stack([rng.uniform(0, 200, (number, 3)), rng.uniform(4, 20, number)])
        detected = nodules[rng.random(number) < 0.8]
        near = detected[:, :3] + rng.normal(0, 0.5, (len(detected), 3))
        places = np.concatenate([near, rng.uniform(300, 900, (30, 3))])
        scores = rng.random(len(places)) * np.append(np.full(len(near), 1.0), np.full(30, 0.8))
        scans.append(froc.of_scan(places, scores, nodules, NONE))
    return scans


@pytest.mark.parametrize("seed", range(4))
def test_equals_monai(seed):
    scans = random_scans(np.random.default_rng(seed))
    hits = np.concatenate([scan.hits for scan in scans])
    false = np.concatenate([scan.false for scan in scans])
    curve = compute_froc_curve_data(false, hits[~np.isnan(hits)], len(hits), len(scans))
    expected = compute_froc_score(*curve, eval_thresholds=froc.RATES)
    assert froc.measure(scans)["froc"] == pytest.approx(expected, abs=0.02), "MONAI starts at the first threshold"
    for threshold in np.quantile(np.append(hits[~np.isnan(hits)], false), (0.1, 0.5, 0.9)):
        rates, sensitivity = froc.curve(froc.ranked(scans), np.ones(len(scans), int))
        called = np.nansum(hits >= threshold) / len(hits)
        wrong = (false >= threshold).sum() / len(scans)
        at = np.flatnonzero((rates == wrong) & (sensitivity == called))
        assert len(at), "every threshold is a point of the curve"


def test_equals_lunas_arithmetic():
    """Its evaluation: ROC over candidates but the excluded, hits scaled to all nodules, interpolated at the rates."""
    scans = random_scans(np.random.default_rng(9))
    hits = np.concatenate([scan.hits for scan in scans])
    truth = np.concatenate([np.ones((~np.isnan(hits)).sum()), np.zeros(sum(len(scan.false) for scan in scans))])
    scores = np.concatenate([hits[~np.isnan(hits)], *(scan.false for scan in scans)])
    order = np.argsort(-scores)
    tp, fp = np.cumsum(truth[order]), np.cumsum(1 - truth[order])
    tpr, fpr = np.append(0, tp / truth.sum()), np.append(0, fp / (1 - truth).sum())
    sensitivity = tpr * truth.sum() / len(hits)
    false = fpr * (len(truth) - truth.sum()) / len(scans)
    expected = np.mean(np.interp(froc.RATES, false, sensitivity))
    assert froc.measure(scans)["froc"] == pytest.approx(expected, abs=1e-12)


def test_a_resample_is_the_same_as_measuring_the_drawn_scans():
    rng = np.random.default_rng(0)
    for seed in range(10):
        scans = random_scans(np.random.default_rng(seed))
        scans = [froc.Scan(np.round(scan.hits, 2), np.round(scan.false, 2)) for scan in scans]  # equal scores
        counts = np.bincount(rng.integers(0, 12, 12), minlength=12)
        drawn = [scans[row] for row in np.repeat(np.arange(12), counts)]
        once = froc.score(froc.ranked(drawn), np.ones(12, int))
        np.testing.assert_array_equal(froc.score(froc.ranked(scans), counts), once)
        hits, false = (np.concatenate([getattr(scan, name) for scan in drawn]) for name in ("hits", "false"))
        cuts = [np.inf, *np.unique(np.append(hits[~np.isnan(hits)], false))[::-1]]
        points = [[(false >= cut).sum() / 12 for cut in cuts], [(hits >= cut).mean() for cut in cuts]]
        np.testing.assert_allclose(once, np.interp(froc.RATES, *points), atol=1e-12)
    none = froc.Scan(np.zeros(0), np.zeros(0))
    assert np.isnan(froc.measure([none, none])["froc"])


def test_what_counts_for_nothing_is_no_false_positive():
    nodules, ignored = np.array([[0.0, 0, 0, 10]]), np.array([[50.0, 0, 0, 6], [90.0, 0, 0, 6]])
    places = np.array([[1.0, 0, 0], [4.9, 0, 0], [5.1, 0, 0], [52.0, 0, 0], [200.0, 0, 0]])
    scan = froc.of_scan(places, np.array([0.2, 0.6, 0.9, 0.8, 0.5]), nodules, ignored)
    assert scan.hits.tolist() == [0.6], "the best of two hits, the other is left out"
    assert sorted(scan.false) == [0.5, 0.9]
    unmeasured = np.array([[50.0, 0, 0, -1], [200.0, 0, 0, -1]])
    places = np.array([[54.9, 0, 0], [55.1, 0, 0], [200.0, 0, 0]])
    alone = froc.of_scan(places, np.array([0.3, 0.4, 0.5]), NONE, unmeasured)
    assert alone.false.tolist() == [0.4], "LUNA16 takes 10 mm where the diameter is -1"
    missed = froc.of_scan(places[:0], np.zeros(0), nodules, NONE)
    measured = froc.measure([scan, missed], resamples=20)
    assert measured["nodules/missed"] == 1
    assert measured["sensitivity/0.5"] == pytest.approx(0.5)
    assert measured["froc/low"] <= measured["froc"] <= measured["froc/high"]
