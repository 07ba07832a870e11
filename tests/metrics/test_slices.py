"""Slice hit rates: the paper's random figures, Monte Carlo and hand-made cases."""

import numpy as np
import pytest

from unimedi_jax.metrics import chance, slices


def luna_random_rate(*, slices: int, span: int, chosen: int, group: int = 1) -> float:
    """Random hit rate when a lesion of `span` slices starts anywhere and `chosen` groups are taken."""
    start = np.arange(slices - span + 1)
    touched = (start + span - 1) // group - start // group + 1
    return float(chance.hit_probability(np.array(slices // group), touched, np.array(chosen)).mean())


def test_random_rates_of_the_paper() -> None:
    assert luna_random_rate(slices=32, span=3, chosen=7) == pytest.approx(0.5363, abs=5e-5)
    grouped = luna_random_rate(slices=32, span=7, chosen=2, group=4)
    assert grouped == pytest.approx(0.5467, abs=5e-5)
    # The other readings of the paper's check, which do not give its .5373.
    assert luna_random_rate(slices=32, span=3, chosen=6) == pytest.approx(0.476, abs=5e-4)
    assert luna_random_rate(slices=32, span=7, chosen=6) == pytest.approx(0.805, abs=5e-4)
    one = luna_random_rate(slices=32, span=7, chosen=1, group=4)
    assert one == pytest.approx(0.308, abs=5e-4)


def test_random_rate_equals_random_choice() -> None:
    rng = np.random.default_rng(0)
    lesion = rng.random((60, 32)) < rng.choice([0, 0.03, 0.1, 0.6], size=(60, 1))
    exact = slices.hit_rate(rng.random((60, 8)), lesion, 2)
    rates = [slices.hit_rate(rng.random((60, 8)), lesion, 2).measured for _ in range(1500)]
    assert exact.random == pytest.approx(np.mean(rates), abs=5 * np.std(rates) / 1500**0.5)
    flat = slices.hit_rate(np.ones((60, 8)), lesion, 2)
    assert flat.measured == pytest.approx(flat.random, abs=1e-12)


def test_a_hit_is_any_slice_of_a_chosen_layer() -> None:
    scores = np.array([[0.1, 0.9, 0.2, 0.3]] * 5)
    lesion = np.zeros((5, 8), bool)
    lesion[0, 3] = True  # in layer 1, the best
    lesion[1, 6] = True  # in layer 3, the second
    lesion[2, 4] = True  # in layer 2, not chosen
    lesion[3] = True  # everywhere: nothing to miss; 4: nowhere, nothing to hit
    rates = slices.hit_rate(scores, lesion, 2, resamples=100)
    assert rates.measured == pytest.approx(2 / 3)
    assert rates.random == pytest.approx(0.5)
    assert (rates.cases, rates.without_lesion, rates.all_lesion) == (3, 1, 1)
    assert 0 <= rates.low <= rates.measured <= rates.high <= 1
    assert rates.scalars()["hit_rate/low"] == rates.low


def test_by_finding_takes_only_the_cts_of_that_finding() -> None:
    mask = np.zeros((3, 8, 2, 2), np.uint8)
    mask[0, 0] = 1  # nodule in layer 0
    mask[1, 7, 1, 1] = 2  # effusion in layer 3
    mask[2] = 255  # not annotated
    lesion = slices.lesion_slices(mask, 2)
    assert lesion.sum() == 2
    scores = np.array([[1, 0, 0, 0.5]] * 3)
    rates = slices.by_finding(scores, lesion, 1, ["nodule", "effusion", "unstated"])
    assert [rates[name].measured for name in ("any", "nodule", "effusion")] == [0.5, 1.0, 0.0]
    assert [rates[name].cases for name in ("any", "nodule", "effusion")] == [2, 1, 1]
    assert rates["nodule"].without_lesion == 2


@pytest.mark.parametrize("n", [0, 3])
def test_no_lesion_at_all(n: int) -> None:
    rates = slices.hit_rate(np.ones((n, 4)), np.zeros((n, 8), bool), 1, resamples=10)
    assert np.isnan([rates.measured, rates.random, rates.low]).all()
    assert (rates.cases, rates.without_lesion) == (0, n)
    assert "hit_rate/low" not in rates.scalars()


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="layers"):
        slices.hit_rate(np.ones((2, 3)), np.ones((2, 8), bool), 1)
    with pytest.raises(ValueError, match="rows"):
        slices.hit_rate(np.ones((2, 4)), np.ones((3, 8), bool), 1)
    with pytest.raises(ValueError, match="names"):
        slices.by_finding(np.ones((2, 4)), np.ones((2, 2, 8), bool), 1, ["nodule"])


def test_positive_slices_lie_around_the_middle_of_a_lesion() -> None:
    lesion = np.zeros((4, 2, 16), bool)
    lesion[0, 0, 7:10] = True  # middle 8
    lesion[1, 1, 0] = True  # cut off at the border
    lesion[2, 0, 2], lesion[2, 1, 11:13] = True, True  # middles 2 and 11.5
    near = slices.around_centre(lesion)
    assert np.flatnonzero(near[0]).tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert np.flatnonzero(near[1]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(near[2]).tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]
    assert not near[3].any()


def test_fixed_layers_hit_most_cts_together() -> None:
    touched = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    lesion = np.repeat(touched, 2, axis=1)
    # Layer 2 is the second most frequent, but hits nobody whom layer 1 does not; a full CT cannot be missed.
    np.testing.assert_array_equal(slices.fixed_layers(lesion, layers=4, k=2), [0, 1, 0, 1])
    scores = np.tile(slices.fixed_layers(lesion, layers=4, k=1), (len(lesion), 1))
    assert slices.hit_rate(scores, lesion, 1).measured == 3 / 4
    assert slices.fixed_layers(lesion, layers=4, k=9).sum() == 4


def test_every_finding_has_fixed_layers_of_its_own() -> None:
    """Layers of the other CTs, against counting by hand: nodules lie in layer 0, effusions in layer 3."""
    choosing, lesion = np.zeros((5, 3, 8), bool), np.zeros((4, 3, 8), bool)
    choosing[:2, 0, 0] = choosing[2:, 1, 7] = True
    lesion[0, 0, 1] = lesion[1, 0, 2] = lesion[2, 1, 6] = lesion[3, 2, 6] = True
    scores = np.array([[0, 1, 0, 0.5]] * 4)
    names = ["nodule", "effusion", "unstated"]
    rates = slices.by_finding(scores, lesion, 1, names, choosing=choosing)
    # Most of the other CTs hold an effusion: all findings together are looked for in layer 3, at 2 of 4 CTs.
    assert [rates[name].fixed for name in ("any", "nodule", "effusion")] == [0.5, 0.5, 1.0]
    assert rates["nodule"].scalars()["fixed_rate"] == 0.5
    assert np.isnan(rates["unstated"].fixed), "no other CT holds it"
    assert "fixed_rate" not in rates["unstated"].scalars()
    alone = slices.by_finding(scores, lesion, 1, names)
    assert all(rate == rates[name]._replace(fixed=rate.fixed) for name, rate in alone.items() if rate.cases)
    assert "fixed_rate" not in alone["nodule"].scalars()


def test_the_layers_share_of_the_variance_is_that_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 8)) + np.linspace(0, 2, 8)
    mean = scores.mean()
    between = sum(len(scores) * (scores[:, layer].mean() - mean) ** 2 for layer in range(8))
    within = sum((x - scores[:, layer].mean()) ** 2 for layer in range(8) for x in scores[:, layer])
    assert slices.layer_share(scores) == pytest.approx(between / (between + within), rel=1e-12)
    assert slices.layer_share(scores) == pytest.approx(slices.layer_share(3 * scores - 7))


def test_the_layers_share_at_its_ends() -> None:
    rng = np.random.default_rng(0)
    assert slices.layer_share(np.tile(rng.random(8), (20, 1))) == pytest.approx(1.0)
    free = np.stack([rng.permutation(8) for _ in range(4000)])
    assert 0 < slices.layer_share(free) < 0.002
    turned = np.stack([np.roll(np.arange(8), shift) for shift in range(8)])  # each layer has had each score
    assert slices.layer_share(turned) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(slices.layer_share(np.full((5, 8), 0.1)))
    assert np.isnan(slices.layer_share(np.zeros((0, 8))))
