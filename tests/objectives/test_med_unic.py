"""Med-UniC: its regularisation against slow twins, crops of tokens, and what it trains."""

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.objectives import common, med_unic


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)


def test_decorrelation_is_that_of_numpy_s_correlations(draw) -> None:
    one, other = draw(4, 30), draw(4, 30)
    both = np.corrcoef(one, other)[:4, 4:]
    twin = [(1 - both[i, i]) ** 2 + 0.1 * sum(both[i, j] ** 2 for j in range(4) if j != i) for i in range(4)]
    decorrelation = jax.jit(med_unic.decorrelation)
    np.testing.assert_allclose(decorrelation(one, other, 0.1), twin, atol=1e-4)
    np.testing.assert_allclose(decorrelation(5 * one + 3, other, 0.1), twin, atol=1e-4)


def test_gradients_of_the_decorrelation_are_torch_s(draw) -> None:
    one, other = draw(5, 8), draw(5, 8)
    actual = jax.jit(jax.grad(lambda *x: med_unic.decorrelation(*x, 0.0051).mean(), (0, 1)))(one, other)
    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in (one, other)]
    a, b = (torch.nn.functional.layer_norm(x, (8,), eps=1e-5) for x in tensors)
    correlation = a @ b.T / 8
    eye = torch.eye(5)
    twin = ((1 - eye * correlation) ** 2 * eye).sum() + 0.0051 * (correlation**2 * (1 - eye)).sum()
    (twin / 5).backward()
    for grad, tensor in zip(actual, tensors, strict=True):
        np.testing.assert_allclose(grad, tensor.grad, atol=1e-5)


def test_known_values_of_the_decorrelation() -> None:
    rows = jnp.array([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    decorrelation = jax.jit(med_unic.decorrelation)
    np.testing.assert_allclose(decorrelation(rows, rows, 0.5), 0, atol=1e-4)
    np.testing.assert_allclose(decorrelation(rows, -rows, 0.5), 4, atol=1e-4)
    alike = jnp.broadcast_to(rows[:1], rows.shape)
    np.testing.assert_allclose(decorrelation(alike, alike, 0.5), 2 * 0.5, atol=1e-4)
    constant = jnp.ones_like(rows)
    np.testing.assert_allclose(decorrelation(constant, constant, 0.5), 1, atol=1e-6)


def test_the_projection_is_torch_s_in_training(draw, random_tree) -> None:
    x, head = draw(6, 5), med_unic.Features(7, 3, jnp.float32)
    params = random_tree(jax.eval_shape(head.init, jax.random.key(0), x))["params"]
    actual = jax.jit(head.apply)({"params": params}, x)
    twin = torch.nn.Sequential(
        torch.nn.Linear(5, 7),
        torch.nn.BatchNorm1d(7),
        torch.nn.ReLU(),
        torch.nn.Linear(7, 3),
        torch.nn.BatchNorm1d(3, affine=False),
    )
    for module, name in ((twin[0], "fc1"), (twin[3], "fc2")):
        module.weight.data = torch.tensor(np.asarray(params[name]["kernel"].T))
        module.bias.data = torch.tensor(np.asarray(params[name]["bias"]))
    twin[1].weight.data, twin[1].bias.data = (torch.tensor(np.asarray(params[name])) for name in ("scale", "bias"))
    np.testing.assert_allclose(actual, twin(torch.tensor(np.asarray(x))).detach(), atol=1e-4)


@pytest.mark.parametrize(("grid", "size"), [((4, 5), (3, 2)), ((3, 4, 4), (2, 3, 4)), ((4, 4), (4, 4))])
def test_crops_are_boxes_of_the_grid(grid: tuple, size: tuple) -> None:
    number = np.arange(np.prod(grid), dtype=np.int16).reshape(1, -1, 1)
    tokens = jnp.asarray(np.repeat(number, 40, axis=0))
    actual = np.asarray(jax.jit(med_unic.crop, static_argnums=(1, 2))(tokens, grid, size, jax.random.key(0)))[..., 0]
    assert actual.dtype == np.int16
    corners = set()
    for each in actual:
        corner = np.unravel_index(each[0], grid)
        box = np.arange(np.prod(grid)).reshape(grid)[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))]
        np.testing.assert_array_equal(each, box.ravel())
        corners.add(corner)
    assert len(corners) == np.prod([c - s + 1 for c, s in zip(grid, size, strict=True)]), "every place has its turn"


OBJECTIVE = med_unic.Objective(hidden=16, features=8, crop=0.5)
MODEL = dict(report_dropout=0.1)
NAMES = ("vl", "vv", "feature", "instance")


def test_one_modality_alone_gives_a_finite_loss(model, networks, make_batch) -> None:
    trial.assert_alone(model, OBJECTIVE, networks, make_batch(model, 4, 4), NAMES)


def test_a_mixed_batch_trains_everything(model, networks, make_batch) -> None:
    value, metrics, _, grads = trial.gradients(model, OBJECTIVE, networks, make_batch(model, 4, 3))
    trial.assert_weighted(OBJECTIVE, value, metrics, NAMES)
    np.testing.assert_allclose(metrics["xray/feature"].value, metrics["ct/feature"].value, rtol=1e-6)
    assert metrics["loss/instance"].value > 1e-3, "dropout makes the two encodings differ"
    for part in ("project_image", "project_report"):
        assert all(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for name in ("fc1", "fc2"):
        assert grads["head_features"][name]["kernel"].any()
    for kernel in ("patch_2d", "patch_3d"):
        assert grads["vision"][kernel]["kernel"].any()


def test_running_statistics_are_those_of_whole_images(model, networks, make_batch) -> None:
    batch = make_batch(model, 4, 3)
    after = trial.gradients(model, OBJECTIVE, networks, batch)[2]["batch_stats"]["project_image"]

    def whole(network):
        common.encode_pairs(network, batch)
        return network.project_image.variables["batch_stats"]

    expected = trial.bound(model, networks.params, whole, networks.model_state["batch_stats"])
    for one, other in zip(*map(jax.tree.leaves, (after, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_leaves_one_view_is_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="report_dropout=0"):
        make_tiny(objective=med_unic.Objective(), report_dropout=0.0)
    with pytest.raises(ValueError, match="crop"):
        med_unic.Objective(crop=0.0)
