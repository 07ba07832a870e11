"""SigLIP's loss against PyTorch and the formula, its chunks, and the whole objective."""

import dataclasses

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax.objectives import base, siglip

SCALE, BIAS = 7.0, -3.0
OBJECTIVE = siglip.Objective()
MODEL = dict(projection="linear")


def units(rows: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    z = np.random.default_rng(seed).standard_normal((2, rows, 16), np.float32)
    return tuple(jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True)))


def in_numpy(image, text, scale: float, bias: float) -> np.ndarray:
    """The formula pair by pair."""
    image, text = np.float64(image), np.float64(text)
    each = np.zeros(len(image))
    for i, x in enumerate(image):
        for j, y in enumerate(text):
            z = 1 if i == j else -1
            each[i] += np.log(1 + np.exp(-z * (scale * (x @ y) + bias)))
    return each


def test_the_loss_equals_the_formula() -> None:
    pairs = units(7)
    actual = siglip.sigmoid(*pairs, SCALE, BIAS)
    np.testing.assert_allclose(actual, in_numpy(*pairs, SCALE, BIAS), rtol=1e-5)


def test_gradients_equal_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    pairs = units(7)
    args = [torch.tensor(np.array(x), requires_grad=True) for x in (*pairs, np.float32(SCALE), np.float32(BIAS))]
    image, text, scale, bias = args
    target = torch.eye(7)
    logits = scale * image @ text.T + bias
    torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum").div(7).backward()
    grads = jax.jit(jax.grad(lambda *args: siglip.sigmoid(*args).mean(), argnums=(0, 1, 2, 3)))(*pairs, SCALE, BIAS)
    for ours, theirs in zip(grads, args, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 8, 48])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    pairs = units(48)
    weight = jnp.linspace(0.5, 1.5, 48)  # a cotangent that tells the samples apart

    def run(chunk: int):
        def loss(*args):
            each = siglip.sigmoid(*args, chunk)
            return jnp.mean(each * weight), each

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*pairs, SCALE, BIAS)

    for ours, expected in zip(*map(jax.tree.leaves, (run(chunk), run(0))), strict=True):
        np.testing.assert_allclose(ours, expected, atol=float32(48), rtol=float32(48, depth=2))


def test_chunks_take_memory_by_the_row() -> None:
    def taken(chunk: int) -> int:
        loss = jax.value_and_grad(lambda *z: siglip.sigmoid(*z, SCALE, BIAS, chunk).mean(), argnums=(0, 1))
        return jax.jit(loss).lower(*units(1024)).compile().memory_analysis().temp_size_in_bytes

    dense = taken(0)
    assert dense > 1024 * 1024 * 4
    assert taken(64) < dense / 4


def test_a_chunk_divides_the_batch() -> None:
    with pytest.raises(ValueError, match="batch of 48 does not divide into chunks of 9"):
        siglip.sigmoid(*units(48), SCALE, BIAS, 9)


def test_known_values() -> None:
    z = jnp.eye(8)
    assert siglip.sigmoid(z, z, 200.0, -100.0).max() < 1e-6, "every pair on its side"
    assert siglip.sigmoid(z, jnp.roll(z, 1, axis=0), 200.0, -100.0).min() > 199, "own and another one wrong"
    np.testing.assert_allclose(siglip.sigmoid(z, z, 0.0, 0.0), 8 * np.log(2), rtol=1e-6)
    # At the start the negatives, b - 1 of them, cost next to nothing and the own report its whole bias.
    np.testing.assert_allclose(siglip.sigmoid(*units(8), 0.0, -10.0), 10.0, atol=1e-3)


@pytest.mark.parametrize("settings", [{"scale": 0.0}, {"contrastive_chunk": -1}])
def test_a_wrong_setting_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        siglip.Objective(**settings)


def test_scale_and_bias_start_where_the_paper_does(model) -> None:
    params = jax.jit(lambda: base.init_variables(model, OBJECTIVE, jax.random.key(0)))()["params"]
    assert float(params["head_scale"]["log"]) == pytest.approx(np.log(10))
    assert float(params["head_bias"]["value"]) == -10


@pytest.mark.parametrize(("xrays", "cts", "chunk"), [(3, 2, 0), (4, 0, 2), (0, 3, 0)])
def test_every_batch_gives_a_loss_and_gradients(run, xrays: int, cts: int, chunk: int) -> None:
    _, _, _, metrics, _, grads = run(xrays, cts, dataclasses.replace(OBJECTIVE, contrastive_chunk=chunk))
    names = [name for name, rows in (("xray", xrays), ("ct", cts)) if rows]
    assert metrics.keys() == {"loss", *(f"{part}/{kind}" for part in ("loss", *names) for kind in ("vl",))}
    assert grads["report"]["words"]["embedding"].any()
    for part in ("head_scale", "head_bias", "project_image", "project_report"):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for part, name in (("patch_2d", "xray"), ("patch_3d", "ct")):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads["vision"][part])) == (name in names), part


def test_the_loss_is_that_of_the_embeddings_at_inference(model, run) -> None:
    params, batch, value, metrics, *_ = run(3, 2, OBJECTIVE)

    @jax.jit
    def embedded(params):
        def apply(*args, method):
            return model.apply({"params": params}, *args, method=method)

        xray = apply(batch["xray"]["tokens"], method="xray_features").z
        ct = apply(batch["ct"]["tokens"], False, method="ct_features").z  # the volume alone
        reports = [apply(part["text"], part["text_mask"], method="embed_report") for part in batch.values()]
        return jnp.concatenate([xray, ct]), jnp.concatenate(reports)

    scale, bias = np.exp(float(params["head_scale"]["log"])), float(params["head_bias"]["value"])
    expected = in_numpy(*embedded(params), scale, bias)
    assert value == pytest.approx(expected.mean(), rel=1e-4)
    assert float(metrics["xray/vl"].value) == pytest.approx(expected[:3].mean(), rel=1e-4)
    assert float(metrics["ct/vl"].value) == pytest.approx(expected[3:].mean(), rel=1e-4)
