"""A-CLIP: SimCLR and BYOL against slow twins, the teacher's map in the views, and what the loss reaches."""

import math

import jax
import numpy as np
import pytest
import scipy.ndimage
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.objectives import aclip, crops
from unimedi_jax.objectives.aclip import Objective


def units(*shape: int) -> jax.Array:
    x = np.random.default_rng(0).standard_normal(shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def test_simclr_equals_a_loop() -> None:
    first, second = (np.float64(x) for x in units(2, 5, 8))
    rows = np.concatenate([first, second])
    each = []
    for i in range(10):
        similarity = np.exp(rows @ rows[i] / 0.1)
        each.append(-np.log(similarity[(i + 5) % 10] / (similarity.sum() - similarity[i])))
    losses = aclip.simclr(*units(2, 5, 8), 0.1)
    np.testing.assert_allclose(losses, (np.array(each[:5]) + each[5:]) / 2, rtol=1e-4)


def test_known_values_of_simclr() -> None:
    own = jnp.eye(8)
    assert aclip.simclr(own, own, 0.05).max() < 1e-5
    alike = jnp.ones((8, 4)) / 2
    np.testing.assert_allclose(aclip.simclr(alike, alike, 0.1), math.log(15), rtol=1e-5)
    grads = jax.jit(jax.grad(lambda a, b: aclip.simclr(a, b, 0.1).sum(), argnums=(0, 1)))(*units(2, 5, 8))
    assert all(np.isfinite(grad).all() and np.abs(grad).max() > 1e-3 for grad in grads)


def test_byol_equals_its_formula() -> None:
    predicted, target = units(5, 2, 8), units(6, 8)[1:]
    distance = [((predicted[:, view] - target) ** 2).sum(axis=-1) for view in range(2)]
    np.testing.assert_allclose(aclip.byol(predicted, target), (distance[0] + distance[1]) / 2, rtol=1e-4)
    np.testing.assert_allclose(aclip.byol(jnp.stack([target, target], axis=1), target), 0, atol=1e-5)
    np.testing.assert_allclose(aclip.byol(-jnp.stack([target, target], axis=1), target), 4, rtol=1e-5)
    grads = jax.grad(lambda *x: aclip.byol(*x).sum(), argnums=(0, 1))(predicted, target)
    assert grads[0].any()
    assert not grads[1].any(), "the teacher's vector is detached"


@pytest.mark.parametrize(("modality", "grid"), [("xray", (4, 4)), ("ct", (4, 2, 2))])
def test_views_keep_the_best_of_their_part_of_the_teachers_map(modality: str, grid: tuple[int, ...]) -> None:
    rank = len(grid)
    scores = np.random.default_rng(0).permutation(32).reshape(2, 16).astype(np.float32)
    # The whole, and the quarter (or eighth) at the far corner, where a view of the map is a part of it, enlarged.
    low = np.stack([np.zeros((2, rank)), np.full((2, rank), 0.5)], axis=1)
    size = np.stack([np.ones((2, rank)), np.full((2, rank), 0.5)], axis=1)
    views = crops.Crops(jnp.zeros(()), *(jnp.asarray(x, jnp.float32) for x in (low, size)))
    index = np.asarray(Objective().choose_tokens(modality, jnp.asarray(scores), views, grid)).reshape(2, 2, 8)
    for sample in range(2):
        np.testing.assert_array_equal(index[sample, 0], np.sort(np.argsort(-scores[sample])[:8]))
        part = np.meshgrid(*((np.arange(n) + 0.5) / 2 + n / 2 - 0.5 for n in grid), indexing="ij")
        inside = scipy.ndimage.map_coordinates(scores[sample].reshape(grid), part, order=1, mode="nearest").ravel()
        np.testing.assert_array_equal(index[sample, 1], np.sort(np.argsort(-inside)[:8]))


def test_xrays_may_keep_blocks() -> None:
    scores = jnp.asarray(np.random.default_rng(0).permutation(16)[None], jnp.float32)
    views = crops.Crops(jnp.zeros(()), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2)))
    index = np.asarray(Objective(mask_block=2).choose_tokens("xray", scores, views, (4, 4)))[0]
    blocks = {(token // 4 // 2, token % 4 // 2) for token in index}
    assert len(index) == 8
    assert len(blocks) == 2


def test_the_whole(make_tiny, make_batch, random_tree) -> None:
    objective = Objective()
    model = make_tiny(objective=objective)
    networks = trial.networks(model, objective, random_tree)
    batch = make_batch(model, 3, 2)
    # The teacher sees samples whole, the student half of the tokens of two views.
    assert trial.passes(model, objective, networks, batch) == [(2, 17), (3, 17), (4, 9), (6, 9)]
    value, metrics, state, gradient = trial.gradients(model, objective, networks, batch)
    of_vision = {"cls", "position_cls", "patch_2d", "patch_3d", "position_2d", "position_3d", "trunk"}
    heads = {"head_projector", "head_predictor", "head_simclr", "head_scale"}
    of_reports = {"report", "project_image", "project_report"}
    assert trial.reached(gradient) == {*heads, *of_reports, *(f"vision/{name}" for name in of_vision)}
    kinds = {"vl": 1.0, "simclr": 1.0, "byol": 2.0}
    assert set(metrics) == {"loss", *(f"{part}/{kind}" for part in ("loss", "xray", "ct") for kind in kinds)}
    expected = sum(weight * float(metrics[f"loss/{kind}"].value) for kind, weight in kinds.items())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], networks.model_state["batch_stats"])
    assert all(jax.tree.leaves(moved))
    alone = trial.alone(model, objective, networks, batch)
    assert alone == {name: {"loss", *(f"{part}/{kind}" for part in ("loss", name) for kind in kinds)} for name in batch}


def test_linear_projections_and_a_fixed_temperature(make_tiny, random_tree, make_batch) -> None:
    objective = Objective(learn_temperature=False)
    model = make_tiny(objective=objective, projection="linear")
    networks = trial.networks(model, objective, random_tree)
    assert "head_scale" not in networks.params
    value, (_, state) = jax.eval_shape(trial.loss(model, objective), *networks, make_batch(model, 3, 2))
    assert value.shape == ()
    assert state == {"batch_stats": {}}


@pytest.mark.parametrize(
    "settings", [{"mask_ratio": 1.0}, {"mask_ratio": -0.1}, {"mask_block": 0}, {"simclr_temperature": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
