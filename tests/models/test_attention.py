"""Every way to compute attention means the same, and the fused kernels are given what they take."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax import sharding
from unimedi_jax.models import attention


@pytest.mark.parametrize("tokens", [6, 7])
def test_cudnn_differentiates_even_lengths(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Of the kernel, which needs a GPU, XLA's own with the same arguments stands in."""
    library, lengths = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        lengths.append(q.shape[1])
        # An array without meaning where the padding is: it must not reach the result.
        return library(q, k, v, **options).at[:, tokens:].set(1e6)

    q, k, v = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, tokens, 4, 8)), jnp.float32)

    def run(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    expected = run(library)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    fused = run(functools.partial(attention.attend, kind="cudnn"))
    assert lengths == [tokens + tokens % 2]
    forward = attention.attend(q, k, v, kind="cudnn")
    assert lengths[1:] == [tokens], "no padding where nothing is differentiated"
    np.testing.assert_allclose(forward, expected[1], atol=float32(8, depth=4))
    for ours, theirs in zip(*map(jax.tree.leaves, (fused, expected)), strict=True):
        assert ours.shape == (2, tokens, 4, 8)
        np.testing.assert_allclose(ours, theirs, atol=float32(8, depth=4))


# The kernel of TPUs is read by an interpreter.
WAYS = {
    "xla": functools.partial(attention.attend, kind="xla"),
    "short": attention.short,
    "blocks": attention.blocks,
    "splash": functools.partial(attention.splash, interpret=True),
}


@pytest.mark.parametrize("devices", [None, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", WAYS)
def test_every_way_equals_the_library(kind: str, masked: bool, devices: int | None) -> None:
    """Forward and backward against `jax.nn.dot_product_attention`, alone and with the samples spread over a mesh."""
    rng = np.random.default_rng(0)
    tokens = 130  # for the kernel two blocks of 128, the second nearly empty
    q, k, v, weights = jnp.asarray(rng.standard_normal((4, 4, tokens, 2, 8)), jnp.float32)
    lengths = np.array([tokens, 7, 128, 1]) if masked else np.full(4, tokens)
    real = jnp.asarray(np.arange(tokens)[None] < lengths[:, None])

    def run(attend):
        def loss(q, k, v):
            out = jnp.where(real[..., None, None], attend(q, k, v), 0)  # what masked queries see nobody reads
            return jnp.sum(out * weights), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    mesh = sharding.make_mesh(2, 2, devices=jax.devices()[:devices]) if devices else None
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        ours = run(functools.partial(WAYS[kind], mask=real if masked else None))
    theirs = run(functools.partial(jax.nn.dot_product_attention, mask=real[:, None, None]))
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, atol=float32(tokens, depth=4, scale=2))


def test_long_sequences_in_the_kernel_of_tpus(monkeypatch) -> None:
    """Filled up to 1,024 places, of which a product takes 128 keys and the kernel holds 256."""
    monkeypatch.setattr(attention, "AT_ONCE", 128)
    monkeypatch.setattr(attention, "HELD", 256)
    q, k, v, weights = jnp.asarray(np.random.default_rng(2).standard_normal((4, 1, 600, 2, 8)), jnp.float32)

    def run(attend):
        return jax.jit(jax.grad(lambda *x: jnp.sum(attend(*x) * weights), argnums=(0, 1, 2)))(q, k, v)

    ours, theirs = run(functools.partial(attention.splash, interpret=True)), run(jax.nn.dot_product_attention)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=float32(600, depth=4, scale=2))


def test_short_sequences_in_half_precision() -> None:
    """In bfloat16 the gradients keep the dtype, and are as near to those of float32 as the plain products' are."""
    q, k, v, weights = jnp.asarray(np.random.default_rng(1).standard_normal((4, 2, 50, 2, 32)), jnp.float32)

    def gradients(attend, dtype):
        def loss(*x):
            return jnp.sum(attend(*x).astype(jnp.float32) * weights)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*(x.astype(dtype) for x in (q, k, v)))

    exact = gradients(attention.plain, jnp.float32)
    ours, plain = gradients(attention.short, jnp.bfloat16), gradients(attention.plain, jnp.bfloat16)
    assert {x.dtype for x in ours} == {jnp.dtype(jnp.bfloat16)}
    for one, other, truth in zip(ours, plain, exact, strict=True):
        errors = [float(jnp.linalg.norm(x.astype(jnp.float32) - truth)) for x in (one, other)]
        assert errors[0] < 2 * errors[1]
