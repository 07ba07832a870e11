"""Dense layers and GELU equal those they stand in for, and their gradients copy no activations on a CPU."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import BFLOAT16, float32
from unimedi_jax.models import linear

SHAPES = {"rows": (6, 5), "tokens": (2, 3, 5), "words": (2, 2, 3, 5)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_dense_equals_the_library(shape: tuple[int, ...], dtype: jnp.dtype) -> None:
    """Outputs and gradients of inputs and parameters."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    params = nn.Dense(7).init(jax.random.key(0), x)

    def run(layer: nn.Dense) -> tuple:
        def loss(params, x):
            out = layer.apply(params, x).astype(jnp.float32)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    ours, theirs = run(linear.Dense(7, dtype=dtype)), run(nn.Dense(7, dtype=dtype))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert a.dtype == b.dtype
        near = float32(12) if dtype == jnp.float32 else BFLOAT16
        np.testing.assert_allclose(a, b, rtol=2 * near, atol=near)


def test_gradients_copy_no_activations() -> None:
    """What the library's layer does on a CPU, and why this one exists."""
    x = jnp.zeros((8, 9, 32))

    def copies(layer: nn.Dense) -> int:
        params = layer.init(jax.random.key(0), x)
        grad = jax.jit(jax.grad(lambda params, x: jnp.sum(layer.apply(params, jnp.sin(x)) ** 2)))
        text = grad.lower(params, x).compile().as_text()
        moved = ("copy", "transpose")
        return sum(
            "72]" in line.split(" = ")[-1].split("{")[0] for line in text.splitlines() if any(w in line for w in moved)
        )

    assert copies(nn.Dense(64)) > 0
    assert copies(linear.Dense(64)) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_equals_pytorch(dtype: jnp.dtype) -> None:
    """Values and slopes, far out on both sides too."""
    torch = pytest.importorskip("torch")
    grid = np.concatenate([np.linspace(-12, 12, 2001), [-1e4, -40, 0, 40, 1e4]]).astype(np.float32)
    x = jnp.asarray(grid, dtype)
    other = torch.tensor(np.asarray(x, np.float32), requires_grad=True)
    expected = torch.nn.functional.gelu(other)
    expected.sum().backward()
    value, slope = linear.gelu(x), jax.grad(lambda x: jnp.sum(linear.gelu(x).astype(jnp.float32)))(x)
    assert value.dtype == dtype
    erf = float32(16)  # a polynomial of about so many terms, another one in each library
    near = dict(rtol=erf if dtype == jnp.float32 else BFLOAT16, atol=erf)
    np.testing.assert_allclose(np.asarray(value, np.float32), expected.detach().numpy(), **near)
    np.testing.assert_allclose(np.asarray(slope, np.float32), other.grad.numpy(), **near)
