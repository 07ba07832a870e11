"""MGCA: token and prototype alignment against PyTorch, Sinkhorn-Knopp against numpy, and the whole objective."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax import losses
from unimedi_jax.models import heads
from unimedi_jax.objectives import mgca

OBJECTIVE = mgca.Objective(weight_vl=0.5, weight_cta=2.0, weight_cpa=3.0, prototypes=12)
TAU = 0.1
LENGTHS = (5, 1, 3)


def units(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def tokens() -> tuple[jax.Array, ...]:
    """Patches, their weights, words and mask of three samples."""
    weights = np.random.default_rng(1).uniform(size=(3, 6)).astype(np.float32)
    mask = np.arange(5)[None] < np.array(LENGTHS)[:, None]
    parts = units(3, 6, 8), weights / weights.sum(axis=1, keepdims=True), units(3, 5, 8, seed=2), mask
    return tuple(jnp.asarray(x) for x in parts)


def one_way_in_torch(ours, weights, others):
    """The formula of one sample's tokens, one after the other."""
    torch = pytest.importorskip("torch")
    gathered = []
    for token in ours:
        attention = torch.softmax(others @ token / TAU, dim=0)
        context = sum(share * other for share, other in zip(attention, others, strict=True))
        gathered.append(context / context.norm())
    loss = 0
    for j, token in enumerate(ours):
        to_gathered = [torch.exp(token @ other / TAU) for other in gathered]
        to_token = [torch.exp(gathered[j] @ other / TAU) for other in ours]
        loss -= weights[j] * (torch.log(to_gathered[j] / sum(to_gathered)) + torch.log(to_token[j] / sum(to_token))) / 2
    return loss


def test_token_alignment_equals_torch(tokens) -> None:
    torch = pytest.importorskip("torch")
    patches, weights, words, mask = tokens
    theirs = [torch.tensor(np.array(x), requires_grad=True) for x in (patches, words)]
    of_words, of_patches = [], []
    for patch, share, word, n in zip(theirs[0], torch.tensor(np.array(weights)), theirs[1], LENGTHS, strict=True):
        of_words.append(one_way_in_torch(word[:n], torch.full((n,), 1 / n), patch))
        of_patches.append(one_way_in_torch(patch, share, word[:n]))
    expected = torch.stack([torch.stack(of_words), torch.stack(of_patches)])
    cotangent = np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(2, 3)
    (expected * torch.tensor(cotangent)).sum().backward()

    def ours(patches, words):
        actual = mgca.align_tokens(patches, weights, words, mask, TAU)
        return jnp.sum(actual * cotangent), actual

    grads, actual = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(patches, words)
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-5)
    for grad, twin in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(grad, twin.grad.numpy(), atol=2e-5)


def test_known_values_of_token_alignment(tokens) -> None:
    _, weights, _, mask = tokens
    align = jax.jit(mgca.align_tokens, static_argnums=4)
    same = jnp.ones((3, 6, 8)) / 8**0.5
    actual = align(same, weights, same[:, :5], mask, TAU)
    np.testing.assert_allclose(actual[0], np.log(LENGTHS), atol=1e-5)  # padding is nobody's negative
    np.testing.assert_allclose(actual[1], np.log(6), atol=1e-5)
    apart = jnp.broadcast_to(jnp.eye(8)[None, :5], (3, 5, 8))  # each word is one of the patches
    actual = align(apart, jnp.full((3, 5), 0.2), apart, jnp.ones((3, 5), bool), 0.02)
    assert actual.max() < 1e-5


def test_weights_are_clipped_and_sum_to_one() -> None:
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(0).exponential(size=(3, 12)).astype(np.float32)
    actual = mgca.token_weights(jnp.asarray(scores))
    for ours, row in zip(actual, torch.tensor(scores), strict=True):
        clipped = row.clip(torch.quantile(row, 0.1), torch.quantile(row, 0.9))
        np.testing.assert_allclose(ours, (clipped / clipped.sum()).numpy(), rtol=1e-5)
    grads = jax.grad(lambda x: (mgca.token_weights(x) ** 2).sum())(jnp.asarray(scores))
    assert not grads.any()


def test_prototype_alignment_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(3).uniform(-1, 1, (2, 7, 5)).astype(np.float32)
    image, report = theirs = [torch.tensor(x, requires_grad=True) for x in logits]
    codes = [torch.tensor(trial.sinkhorn(x, 0.05, 3), dtype=torch.float32) for x in logits]
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(report / 0.2, codes[0], reduction="none"),
            torch.nn.functional.cross_entropy(image / 0.2, codes[1], reduction="none"),
        ]
    )
    expected.sum().backward()

    def ours(*logits):
        actual = mgca.align_prototypes(*logits, 0.2, 0.05, 3)
        return jnp.sum(actual), actual

    grads, actual = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(*map(jnp.asarray, logits))
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-5)
    for grad, twin in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(grad, twin.grad.numpy(), atol=1e-5)


def test_known_values_of_prototype_alignment() -> None:
    alike = jnp.zeros((10, 5))
    np.testing.assert_allclose(mgca.align_prototypes(alike, alike, 0.2, 0.05, 3), np.log(5), rtol=1e-5)
    apart = jnp.repeat(jnp.eye(5), 2, axis=0)
    assert mgca.align_prototypes(apart, apart, 0.02, 0.05, 3).max() < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"local_temperature": -1.0},
        {"prototype_temperature": 0.0},
        {"epsilon": 0.0},
        {"prototypes": 0},
        {"sinkhorn_iterations": 0},
    ],
)
def test_a_wrong_setting_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        mgca.Objective(**settings)


@pytest.mark.parametrize(("xrays", "cts"), [(3, 2), (4, 0), (0, 3)])
def test_every_batch_gives_a_loss_and_gradients(run, xrays: int, cts: int) -> None:
    _, _, _, metrics, _, grads = run(xrays, cts)
    names = [name for name, rows in (("xray", xrays), ("ct", cts)) if rows]
    assert metrics.keys() == {"loss", *(f"{part}/{kind}" for part in ("loss", *names) for kind in ("vl", "cta", "cpa"))}
    assert grads["report"]["words"]["embedding"].any()
    for part in ("head_patch", "head_word", "head_prototype", "project_image", "project_report"):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for part, name in (("patch_2d", "xray"), ("patch_3d", "ct")):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads["vision"][part])) == (name in names), part


def test_the_loss_is_put_together_from_its_parts(model, run) -> None:
    params, batch, value, metrics, state, _ = run(3, 2)

    def parts(network):
        cta, cls, vectors = [], {}, []
        for name, embed in (("xray", network.embed_xray), ("ct", network.embed_volume)):
            image = network.encode(embed(batch[name]["tokens"]), scores=True)
            report = network.encode_text_tokens(batch[name]["text"], batch[name]["text_mask"])
            patches = heads.unit(network.head["patch"](image.patches))
            words = heads.unit(network.head["word"](report.words[:, 1:]))
            weights = mgca.token_weights(image.scores)
            cta.append(mgca.align_tokens(patches, weights, words, batch[name]["text_mask"][:, 1:], 0.1).mean(axis=0))
            vectors.append(report.vector)
            cls[name] = image.cls
        z = network.project(cls, jnp.concatenate(vectors), True)
        kernel = params["head_prototype"]["last_layer"]
        logits = [x @ (kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)) for x in z]
        cpa = mgca.align_prototypes(*logits, 0.2, 0.05, 3).mean(axis=0)
        return {"vl": losses.contrastive(*z, 0.07).mean(axis=0), "cta": jnp.concatenate(cta), "cpa": cpa}

    expected = trial.bound(model, params, parts, state["batch_stats"])
    for kind, each in expected.items():
        for name, rows in (("xray", slice(0, 3)), ("ct", slice(3, 5)), ("loss", slice(0, 5))):
            assert float(metrics[f"{name}/{kind}"].value) == pytest.approx(float(each[rows].mean()), rel=1e-3)
    total = sum(weight * expected[kind].mean() for kind, weight in (("vl", 0.5), ("cta", 2.0), ("cpa", 3.0)))
    assert value == pytest.approx(float(total), rel=1e-3)
