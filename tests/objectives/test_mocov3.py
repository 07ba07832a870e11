"""MoCo v3: the loss and its heads against PyTorch, and what it reaches."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.models import heads
from unimedi_jax.objectives import mocov3
from unimedi_jax.objectives.mocov3 import Objective


def test_the_loss_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    queries, targets = rng.standard_normal((2, 6, 2, 8), np.float32)
    theirs, keys = torch.tensor(queries, requires_grad=True), torch.tensor(targets)

    def one_way(query, key):
        query, key = (torch.nn.functional.normalize(x, dim=1) for x in (query, key))
        logits = torch.einsum("nc,mc->nm", query, key) / 0.2
        return torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="none") * 2 * 0.2

    expected = one_way(theirs[:, 0], keys[:, 1]) + one_way(theirs[:, 1], keys[:, 0])
    expected.sum().backward()

    def ours(queries, targets):
        each = mocov3.momentum_contrast(heads.unit(queries), heads.unit(targets), 0.2)
        return each.sum(), each

    grads, each = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(queries, targets)
    np.testing.assert_allclose(each, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(grads[0], theirs.grad.numpy(), atol=1e-5)
    assert not grads[1].any(), "keys are detached"


def test_known_values_of_the_loss() -> None:
    own = jnp.tile(jnp.eye(8)[:, None], (1, 2, 1))
    assert mocov3.momentum_contrast(own, own, 0.05).max() < 1e-5
    alike = jnp.ones((8, 2, 4)) / 2
    np.testing.assert_allclose(mocov3.momentum_contrast(alike, alike, 0.2), 4 * 0.2 * math.log(8), rtol=1e-5)
    np.testing.assert_allclose(mocov3.momentum_contrast(own[:1], own[:1], 0.2), 0)


@pytest.mark.parametrize("last_norm", [False, True])
def test_the_heads_equal_torch_on_each_view(last_norm: bool, random_tree) -> None:
    torch = pytest.importorskip("torch")
    ours = heads.NormedMlp((12, 10, 6), last_norm=last_norm, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 2, 5), np.float32))
    params = random_tree(jax.eval_shape(lambda: ours.init(jax.random.key(0), x))["params"])
    layers, widths = [], (5, 12, 10, 6)
    for i in range(3):
        layers.append(torch.nn.Linear(widths[i], widths[i + 1], bias=False))
        layers[-1].weight.data = torch.tensor(np.array(params[f"fc{i + 1}"]["kernel"]).T)
        if i < 2:
            layers += [torch.nn.BatchNorm1d(widths[i + 1]), torch.nn.ReLU()]
            layers[-2].weight.data = torch.tensor(np.array(params[f"norm{i + 1}"]["scale"]))
            layers[-2].bias.data = torch.tensor(np.array(params[f"norm{i + 1}"]["bias"]))
    theirs = torch.nn.Sequential(*layers, *[torch.nn.BatchNorm1d(6, affine=False)] * last_norm).train()
    out = jax.jit(ours.apply)({"params": params}, x)
    for view in range(2):
        np.testing.assert_allclose(out[:, view], theirs(torch.tensor(np.array(x[:, view]))).detach(), atol=1e-4)


def test_a_batch_of_one_is_finite() -> None:
    x = jnp.ones((1, 2, 4))
    value, grad = jax.value_and_grad(lambda x: heads.unit(heads.batch_norm(x)).sum())(x)
    assert value == 0
    assert np.isfinite(grad).all()


def test_the_whole(make_tiny, make_batch, random_tree) -> None:
    objective = Objective()
    model = make_tiny(objective=objective)
    networks = trial.networks(model, objective, random_tree)
    batch = make_batch(model, 3, 2)
    value, metrics, _, gradient = trial.gradients(model, objective, networks, batch)
    assert 0 < value < 4 * 0.2 * (math.log(3) + 2 / 0.2)
    of_vision = {"cls", "position_cls", "patch_2d", "patch_3d", "position_2d", "position_3d", "trunk"}
    assert trial.reached(gradient) == {"head_projector", "head_predictor", *(f"vision/{name}" for name in of_vision)}
    assert set(metrics) == {"loss", "loss/moco", "xray/moco", "ct/moco"}
    assert trial.passes(model, objective, networks, batch) == [(4, 17), (4, 17), (6, 17), (6, 17)]
    alone = trial.alone(model, objective, networks, batch)
    assert alone == {name: {"loss", "loss/moco", f"{name}/moco"} for name in batch}


def test_the_predictor_has_no_momentum() -> None:
    assert Objective.teacher == ("vision", "head_projector")
    assert not Objective.uses_reports


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"crop_scale": (0.0, 1.0)}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
