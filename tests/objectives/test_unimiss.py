"""UniMiSS: who learns from whom, slices of views, and what the loss is put together from."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.conftest import TINY
from tests.objectives import trial
from unimedi_jax.objectives import dino, unimiss
from unimedi_jax.objectives.unimiss import Objective

OF_VOLUMES = {"volume", "slices", "slices_to_volume", "volume_to_slices"}
OBJECTIVE = Objective(slices=3, weight_slices=0.5)
MODEL = dict(size=TINY)


@pytest.fixture(scope="module")
def step(model, networks, make_batch):
    return trial.gradients(model, OBJECTIVE, networks, make_batch(model, 3, 2))


def test_volumes_and_slices_teach_each_other_like_the_public_code() -> None:
    """Four terms of a batch, each of both pairings of two views, in a slow loop."""
    rng = np.random.default_rng(0)
    predictions, targets, slice_predictions, slice_targets = rng.standard_normal((4, 3, 2, 6))
    centre = rng.standard_normal(6)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    def term(student, teacher, sample):
        pairs = [(student[sample, 1], teacher[sample, 0]), (student[sample, 0], teacher[sample, 1])]
        return np.mean([-(softmax((t - centre) / 0.04) * np.log(softmax(s / 0.1))).sum() for s, t in pairs])

    expected = {
        "volume": (predictions, targets),
        "slices": (slice_predictions, slice_targets),
        "slices_to_volume": (slice_predictions, targets),
        "volume_to_slices": (predictions, slice_targets),
    }
    logits = (predictions, targets, slice_predictions, slice_targets)
    pairs = unimiss.volume_pairs(*(jnp.asarray(x, jnp.float32) for x in logits))
    assert pairs.keys() == expected.keys()
    for kind, (student, teacher) in pairs.items():
        losses = dino.across_views(student, teacher, jnp.asarray(centre, jnp.float32), 0.1, 0.04)
        np.testing.assert_allclose(losses, [term(*expected[kind], sample) for sample in range(3)], rtol=1e-4)


def test_each_views_slices_are_its_own() -> None:
    """Views of one grey value each: whatever is drawn shows which view it came from."""
    views = jnp.broadcast_to(jnp.arange(6.0).reshape(3, 2, 1, 1, 1), (3, 2, 8, 4, 4))
    slices = jax.jit(unimiss.slices_of_views, static_argnums=(2, 3))(jax.random.key(0), views, 3, 4)
    assert slices.shape == (3, 6, 4, 4)
    np.testing.assert_array_equal(slices[:, :, 0, 0], np.repeat(np.arange(6.0).reshape(3, 2), 3, axis=1))


def test_logits_are_averaged_over_the_slices_of_a_view(model, networks) -> None:
    views = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 6, 64, 64)), jnp.float32)

    def logits(network):
        return unimiss.mean_logits(network, views, 3), dino.prototype_logits(network, views)

    means, each = trial.bound(model, networks.params, logits)
    assert means.shape == (2, 2, 24)
    for view in range(2):
        np.testing.assert_allclose(means[:, view], each[:, 3 * view : 3 * view + 3].mean(axis=1), atol=1e-5)


def test_the_loss_is_the_weighted_sum(step, model, networks, make_batch) -> None:
    value, metrics, state, _ = step
    of_targets = {f"{name}/dino_information" for name in ("xray", "ct")}
    terms = {"loss/image", "xray/image", *(f"{part}/{kind}" for part in ("loss", "ct") for kind in OF_VOLUMES)}
    assert set(metrics) == {"loss", *terms, *of_targets}
    weights = {"image": 1.0, "volume": 1.0} | dict.fromkeys(OF_VOLUMES - {"volume"}, 0.5)
    expected = sum(weight * float(metrics[f"loss/{kind}"].value) for kind, weight in weights.items())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert all(np.abs(centre).max() > 1e-3 for centre in state["centre"].values())
    alone = trial.alone(model, OBJECTIVE, networks, make_batch(model, 3, 2))
    assert alone["xray"] == {"loss", "loss/image", "xray/image", "xray/dino_information"}
    assert alone["ct"] == {"loss", "ct/dino_information", *(name for name in terms if "image" not in name)}


def test_gradients_reach_the_vision_tower_and_no_report(step) -> None:
    of_vision = {"cls", "position_cls", "patch_2d", "patch_3d", "position_2d", "position_3d", "trunk"}
    assert trial.reached(step[3]) == {"head_cls", *(f"vision/{name}" for name in of_vision)}


def test_xrays_pass_twice_and_volumes_four_times(model, networks, make_batch) -> None:
    passes = trial.passes(model, OBJECTIVE, networks, make_batch(model, 3, 2))
    assert passes == [(4, 17), (4, 17), (6, 17), (6, 17), (12, 17), (12, 17)]


@pytest.mark.parametrize("settings", [{"slices": 0}, {"weight_slices": -1.0}, {"crop_aspect": 0.5}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
