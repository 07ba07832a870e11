"""Fused attention is given what its kernel takes, and means what the plain one means."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from unimedi_jax.models import transformer


@pytest.mark.parametrize("tokens", [6, 7])
def test_fused_attention_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Of the kernel, which needs a GPU, XLA's own with the same arguments stands in."""
    plain, lengths = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, *, implementation, mask=None, **given):
        assert implementation in (None, "cudnn")
        if implementation == "cudnn":
            lengths.append(q.shape[1])
        # An array without meaning where the padding is: it must not reach the result.
        return plain(q, k, v, mask=mask, **given).at[:, tokens:].set(1e6)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, tokens, 4, 8)), jnp.float32)

    def run(implementation):
        def loss(q, k, v):
            out = transformer.attend(q, k, v, None, implementation)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    fused, expected = run("cudnn"), run(None)
    assert lengths == [tokens + tokens % 2]
    for ours, theirs in zip(*map(jax.tree.leaves, (fused, expected)), strict=True):
        assert ours.shape == (2, tokens, 4, 8)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
