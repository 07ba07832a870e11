"""Joint 2D-3D clustering: assignments and losses against slow twins, the transformer over slices, what is reached."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.objectives import joint, masked
from unimedi_jax.objectives.joint import Objective


def balanced(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn-Knopp as SwAV's appendix has it: rows of 1 / p, columns of 1 / b, in turn."""
    q = np.exp(np.float64(scores) / epsilon).T
    p, b = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= p * q.sum(axis=1, keepdims=True)
        q /= b * q.sum(axis=0, keepdims=True)
    return (q * b).T


def cosines(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_swapped_prediction_equals_a_loop_and_its_targets_are_detached() -> None:
    torch = pytest.importorskip("torch")
    scores = cosines(6, 3, 5)
    theirs = torch.tensor(scores, requires_grad=True)
    terms = []
    for a in range(3):
        target = torch.tensor(balanced(scores[:, a], 0.05, 3), dtype=torch.float32)
        terms += [-(target * torch.log_softmax(theirs[:, b] / 0.1, dim=1)).sum(dim=1) for b in range(3) if b != a]
    expected = sum(terms) / 6
    expected.sum().backward()

    def ours(scores):
        each = joint.swapped_prediction_loss(scores, 0.1, 0.05, 3)
        return each.sum(), each

    grad, each = jax.jit(jax.grad(ours, has_aux=True))(scores)
    np.testing.assert_allclose(each, expected.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), atol=1e-4)


def test_known_values_of_the_swapped_prediction() -> None:
    swapped = jax.jit(lambda scores: joint.swapped_prediction_loss(scores, 0.1, 0.05, 3))
    np.testing.assert_allclose(swapped(np.zeros((8, 2, 16), np.float32)), math.log(16), rtol=1e-5)
    own = 2 * np.tile(np.eye(8, dtype=np.float32)[:, None], (1, 2, 1)) - 1
    assert swapped(own).max() < 1e-5
    own[:, 1] = np.roll(own[:, 1], 1, axis=0)
    assert swapped(own).min() > 10


def test_the_slice_loss_is_of_masked_slices_alone() -> None:
    predicted, slices = cosines(3, 4, 6), cosines(2, 3, 4, 6)[1]
    mask = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], bool)
    each = joint.masked_slice_loss(jnp.asarray(predicted), jnp.asarray(slices), jnp.asarray(mask))
    for i in range(3):
        assert float(each[i]) == pytest.approx(((predicted - slices)[i, mask[i]] ** 2).mean(), rel=1e-5)
    grad = jax.grad(lambda x: joint.masked_slice_loss(predicted, x, jnp.asarray(mask)).sum())(jnp.asarray(slices))
    assert not grad.any(), "the target is detached"


def test_hidden_slices_show_their_place_and_nothing_else(random_tree) -> None:
    network = joint.SliceTransformer(depth=16, layers=2, heads=4, dtype=jnp.float32)
    slices, z = jnp.asarray(cosines(2, 3, 8)), jnp.array([[1, 5, 9], [0, 2, 15]])
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), slices, z))
    run = jax.jit(lambda *x: network.apply({"params": random_tree(shapes["params"])}, *x))
    mask = jnp.array([[False, True, False]] * 2)
    changed = slices.at[:, 1].set(5.0)
    for a, b in zip(run(slices, z, mask), run(changed, z, mask), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(run(slices, z)[0] - run(changed, z)[0]).max() > 1e-3
    assert np.abs(run(slices, z, mask)[1] - run(slices, z.at[:, 1].add(1), mask)[1]).max() > 1e-3
    order = np.array([2, 0, 1])
    for a, b in zip(run(slices, z), run(slices[:, order], z[:, order]), strict=True):
        np.testing.assert_allclose(a if a.ndim == 2 else a[:, order], b, atol=1e-5)


def test_all_slices_of_a_view_share_box_and_light() -> None:
    """Equal slices of a volume stay equal; those of another view do not."""
    one = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, 16, 16)), jnp.float32)
    slices = jnp.repeat(one, 3, axis=1)
    views = jax.jit(Objective(noise=0.0).views_of_slices)(jax.random.key(0), slices).reshape(2, 3, 2, 16, 16)
    np.testing.assert_allclose(views[:, 1:], views[:, :-1], atol=1e-6)
    assert float(jnp.abs(views[:, 0, 0] - views[:, 0, 1]).max()) > 0.1


def test_so_many_are_hidden_in_each_row() -> None:
    hidden = np.asarray(masked.random_ranks(jax.random.key(0), 50, 4) < 2)
    np.testing.assert_array_equal(hidden.sum(axis=1), 2)
    assert (hidden.sum(axis=0) > 10).all()


def test_the_whole(make_tiny, make_batch, random_tree) -> None:
    objective = Objective(prototypes=12, slices=3, layers=1, weight_intra=0.5, weight_inter=2.0, weight_hidden=3.0)
    model = make_tiny(objective=objective)
    networks = trial.networks(model, objective, random_tree)
    batch = make_batch(model, 3, 2)
    assert trial.passes(model, objective, networks, batch) == [(4, 17), (6, 17), (12, 17)]
    value, metrics, _, gradient = trial.gradients(model, objective, networks, batch)
    of_vision = {"cls", "position_cls", "patch_2d", "patch_3d", "position_2d", "position_3d", "trunk"}
    heads = {"head_intra", "head_inter", "head_slices"}
    assert trial.reached(gradient) == {*heads, *(f"vision/{name}" for name in of_vision)}
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["head_slices"]))
    weights = {"intra": 0.5, "inter": 2.0, "hidden": 3.0}
    expected = sum(weight * float(metrics[f"loss/{kind}"].value) for kind, weight in weights.items())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    of_xrays = {"loss", "loss/intra", "xray/intra"}
    of_volumes = {"loss", *(f"{part}/{kind}" for part in ("loss", "ct") for kind in weights)}
    assert set(metrics) == of_xrays | of_volumes
    assert trial.alone(model, objective, networks, batch) == {"xray": of_xrays, "ct": of_volumes}


@pytest.mark.parametrize(
    "settings", [{"hidden_slices": 0}, {"hidden_slices": 4}, {"prototypes": 0}, {"epsilon": 0.0}, {"iterations": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
