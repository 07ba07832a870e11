"""The heads against PyTorch on copied weights."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax.models import heads

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def tensor(x) -> "torch.Tensor":
    return torch.tensor(np.array(x))


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_unit() -> None:
    x = inputs(3, 4, 8)
    theirs = functional.normalize(tensor(x), dim=-1).numpy()
    np.testing.assert_allclose(heads.unit(jnp.asarray(x)), theirs, rtol=1e-5)
    assert not heads.unit(jnp.zeros((2, 8))).any(), "zeros stay zeros, not NaN"


@pytest.fixture
def projections(random_tree):
    """The projection and its parameters, and PyTorch's twin."""
    ours = heads.Projection(8, hidden=24, dtype=jnp.float32)
    params = random_tree(ours.init(jax.random.key(0), jnp.zeros((6, 16)))["params"])
    theirs = torch.nn.Sequential(
        torch.nn.Linear(16, 24),
        torch.nn.BatchNorm1d(24),
        torch.nn.ReLU(),
        torch.nn.Linear(24, 8),
        torch.nn.BatchNorm1d(8, affine=False),
    )
    with torch.no_grad():
        for layer, name in ((theirs[0], "fc1"), (theirs[3], "fc2")):
            layer.weight.copy_(tensor(params[name]["kernel"].T))
            layer.bias.copy_(tensor(params[name]["bias"]))
        theirs[1].weight.copy_(tensor(params["norm1"]["scale"]))
        theirs[1].bias.copy_(tensor(params["norm1"]["bias"]))
    return ours, params, theirs


def test_projection_equals_torch(projections) -> None:
    ours, params, theirs = projections
    x, stats = (
        inputs(6, 16),
        {"norm1": {"mean": jnp.zeros(24), "var": jnp.ones(24)}, "norm2": {"mean": jnp.zeros(8), "var": jnp.ones(8)}},
    )
    variables = {"params": params, "batch_stats": stats}
    actual, updated = jax.jit(lambda *arguments: ours.apply(*arguments, True, mutable=["batch_stats"]))(variables, x)
    expected = functional.normalize(theirs(tensor(x)), dim=-1)
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-5)
    for name, layer in (("norm1", theirs[1]), ("norm2", theirs[4])):
        stats = updated["batch_stats"][name]
        np.testing.assert_allclose(stats["mean"], layer.running_mean.numpy(), atol=1e-5)
        # PyTorch's running variance is unbiased, flax's is not: compare the batches' part of it.
        unbiased = (layer.running_var.numpy() - 0.9) * 6 / 5 * 25 / 36
        np.testing.assert_allclose((stats["var"] - 0.9), unbiased, atol=1e-5)

    after = jax.jit(lambda *arguments: ours.apply(*arguments, False))({"params": params, **updated}, x)
    with torch.no_grad():
        for name, layer in (("norm1", theirs[1]), ("norm2", theirs[4])):
            layer.running_var.copy_(tensor(updated["batch_stats"][name]["var"]))
        expected = functional.normalize(theirs.eval()(tensor(x)), dim=-1)
    np.testing.assert_allclose(after, expected.numpy(), atol=1e-5)


def test_linear_projection_is_one_matrix() -> None:
    head = heads.Projection(8, kind="linear", dtype=jnp.float32)
    x = inputs(6, 16)
    variables = head.init(jax.random.key(0), jnp.asarray(x))
    assert jax.tree.map(jnp.shape, variables) == {"params": {"fc": {"kernel": (16, 8)}}}
    product = x @ np.asarray(variables["params"]["fc"]["kernel"])
    expected = product / np.linalg.norm(product, axis=1, keepdims=True)
    np.testing.assert_allclose(head.apply(variables, jnp.asarray(x)), expected, atol=1e-5)


def test_an_unknown_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="mlp or linear, not 'conv'"):
        heads.Projection(8, kind="conv").init(jax.random.key(0), jnp.zeros((2, 4)))


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16)])
@pytest.mark.parametrize("norm", [False, True])
def test_dino_head_equals_torch(shape: tuple[int, ...], norm: bool, random_tree) -> None:
    x = inputs(*shape)
    head = heads.DinoHead(20, hidden=24, bottleneck=6, dtype=jnp.float32, norm=norm)
    params = random_tree(head.init(jax.random.key(0), jnp.asarray(x))["params"])
    last = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 20, bias=False))
    with torch.no_grad():
        last.parametrizations.weight.original0.fill_(1.0)
        last.parametrizations.weight.original1.copy_(tensor(params["last_layer"].T))
        hidden = tensor(x)
        for name in ("fc1", "fc2", "fc3"):
            weight, bias = (tensor(params[name][part].T) for part in ("kernel", "bias"))
            hidden = functional.linear(hidden, weight, bias)
            if norm and name != "fc3":
                affine = (tensor(params[name.replace("fc", "norm")][part]) for part in ("scale", "bias"))
                rows = functional.batch_norm(hidden.reshape(-1, 24), None, None, *affine, training=True)
                hidden = rows.reshape(hidden.shape)
            hidden = functional.gelu(hidden) if name != "fc3" else hidden
        expected = last(functional.normalize(hidden, dim=-1)).numpy()
    np.testing.assert_allclose(head.apply({"params": params}, jnp.asarray(x)), expected, atol=1e-5)


def test_the_length_of_a_prototype_does_not_matter(random_tree) -> None:
    x = jnp.asarray(inputs(4, 16))
    head = heads.DinoHead(20, hidden=24, bottleneck=6, dtype=jnp.float32)
    params = random_tree(head.init(jax.random.key(0), x)["params"])
    longer = {**params, "last_layer": 7 * params["last_layer"]}
    logits = head.apply({"params": params}, x)
    np.testing.assert_allclose(head.apply({"params": longer}, x), logits, atol=float32(24, depth=4))
    assert np.abs(logits).max() <= 1 + float32(6, depth=2), "a cosine"


def test_half_precision_arithmetic_keeps_float32_results() -> None:
    x = jnp.asarray(inputs(4, 16))
    for head in (heads.DinoHead(20, hidden=24, bottleneck=6), heads.Projection(8, hidden=24)):
        actual, variables = head.init_with_output(jax.random.key(0), x)
        assert actual.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_a_scale_above_its_cap_is_cut_and_may_come_back() -> None:
    scale = heads.Scale(10.0, 100.0)
    for log, expected in ((2.0, np.exp(2.0)), (7.0, 100.0)):
        params = {"params": {"log": jnp.float32(log)}}
        value, slope = jax.value_and_grad(lambda params: scale.apply(params))(params)
        np.testing.assert_allclose([value, slope["params"]["log"]], expected, rtol=1e-5)
    endless = heads.Scale(10.0, np.inf)
    np.testing.assert_allclose(endless.apply({"params": {"log": jnp.float32(7.0)}}), np.exp(7.0), rtol=1e-5)
