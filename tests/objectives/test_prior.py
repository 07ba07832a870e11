"""PRIOR: its losses against slow twins, and what it trains."""

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp
from scipy import optimize
from torch.nn import functional

from unimedi_jax.objectives import base, prior, token_runs

REAL = np.arange(5)[None] < np.array([[5], [3], [1]])  # sentences of three reports


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)


def test_runs_are_means_of_equal_runs_of_tokens(draw) -> None:
    words = draw(3, 7, 4)
    mask = np.arange(7)[None] < np.array([[7], [6], [2]])
    actual, real = jax.jit(token_runs.means, static_argnums=2)(words, mask, 3)
    expected = [
        [words[0, 0:3].mean(0), words[0, 3:5].mean(0), words[0, 5:7].mean(0)],
        [words[1, 0:2].mean(0), words[1, 2:4].mean(0), words[1, 4:6].mean(0)],
        [words[2, 0], words[2, 1], np.zeros(4)],
    ]
    np.testing.assert_allclose(actual, np.array(expected), atol=1e-6)
    assert real.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def test_as_many_runs_as_tokens_are_the_tokens(draw) -> None:
    words = draw(2, 6, 4)
    mask = np.arange(6)[None] < np.array([[6], [4]])
    actual, real = jax.jit(token_runs.means, static_argnums=2)(words, mask, 6)
    np.testing.assert_allclose(actual, words * mask[..., None], atol=1e-6)
    assert (np.asarray(real) == mask).all()


def test_the_marks_of_a_report_are_no_part_of_its_sentences() -> None:
    mask = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    actual = np.asarray(token_runs.inner(mask))
    np.testing.assert_array_equal(actual, [[0, 1, 1, 0, 0], [0] * 5, [0] * 5, [0] * 5])


def test_mixtures_are_torch_s_gumbel_softmax(draw) -> None:
    sentences, memory, noise = draw(2, 3, 4), draw(6, 4), draw(2, 3, 6)

    def loss(sentences, memory):
        mixtures, logits = prior.mix(sentences, memory, noise, 0.9)
        return jnp.abs(mixtures - sentences).mean(), (mixtures, logits)

    (_, (mixtures, logits)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(sentences, memory)
    s, m = (torch.tensor(np.asarray(x), requires_grad=True) for x in (sentences, memory))
    products = s @ m.T
    twin = functional.softmax((products + torch.tensor(np.asarray(noise))) / 0.9, dim=-1) @ m
    functional.l1_loss(twin, s).backward()
    np.testing.assert_allclose(mixtures, twin.detach(), atol=1e-5)
    np.testing.assert_allclose(logits, products.detach(), atol=1e-5)
    for actual, tensor in zip(grads, (s, m), strict=True):
        np.testing.assert_allclose(actual, tensor.grad, atol=1e-5)


def test_sigmoid_attention_sums_over_the_real_keys(draw) -> None:
    query, key, value = draw(3, 2, 4), draw(3, 5, 4), draw(3, 5, 4)
    actual = jax.jit(prior.sigmoid_attention)(query, key, value, REAL)
    query, key, value = (np.asarray(x) for x in (query, key, value))
    for i in range(3):
        for m in range(2):
            expected = sum(value[i, k] / (1 + np.exp(-query[i, m] @ key[i, k] / 2)) for k in range(5) if REAL[i, k])
            np.testing.assert_allclose(actual[i, m], expected, atol=1e-5)


def test_disagreement_is_simsiam_s_with_targets_held_still(draw) -> None:
    arrays = [draw(2, 3, 4) for _ in range(4)]
    disagreement = jax.jit(prior.disagreement)
    actual, grads = jax.jit(jax.value_and_grad(lambda *x: disagreement(*x).mean(), (0, 1, 2, 3)))(*arrays)
    one, other, predicted_one, predicted_other = (torch.tensor(np.asarray(x), requires_grad=True) for x in arrays)
    first = functional.cosine_similarity(predicted_one, other.detach(), dim=-1).mean()
    second = functional.cosine_similarity(predicted_other, one.detach(), dim=-1).mean()
    twin = -(first + second) / 2
    twin.backward()
    np.testing.assert_allclose(actual, twin.item(), atol=1e-5)
    np.testing.assert_allclose(grads[2], predicted_one.grad, atol=1e-5)
    np.testing.assert_allclose(grads[3], predicted_other.grad, atol=1e-5)
    assert not grads[0].any()
    assert not grads[1].any()
    np.testing.assert_allclose(disagreement(arrays[0], arrays[1], arrays[1], arrays[0]), -1, atol=1e-5)


def test_a_sentence_is_told_from_those_of_its_own_report(draw) -> None:
    sentences, gathered = draw(3, 5, 4), draw(3, 5, 4)
    actual, grad = jax.jit(jax.value_and_grad(lambda x: prior.own_sentence(sentences, x, REAL, 10.0).mean()))(gathered)
    a, b = torch.tensor(np.asarray(sentences)), torch.tensor(np.asarray(gathered), requires_grad=True)
    each = []
    for i, count in enumerate(REAL.sum(1)):
        logits = 10 * functional.normalize(b[i, :count], dim=-1) @ functional.normalize(a[i, :count], dim=-1).T
        own = torch.arange(count)
        each.append((functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2)
    twin = torch.stack(each).mean()
    twin.backward()
    np.testing.assert_allclose(actual, twin.item(), atol=1e-5)
    np.testing.assert_allclose(grad, b.grad, atol=1e-5)


def test_known_values_of_the_contrast_within_a_report() -> None:
    own_sentence = jax.jit(lambda x: prior.own_sentence(x, x, REAL, 100.0))
    np.testing.assert_allclose(own_sentence(jnp.broadcast_to(jnp.eye(5)[None], (3, 5, 5))), 0, atol=1e-6)
    np.testing.assert_allclose(own_sentence(jnp.ones((3, 5, 5))), np.log([5, 3, 1]), atol=1e-5)


def test_pairs_are_scipy_s_assignment(draw) -> None:
    generated, mixtures = draw(3, 5, 4), draw(3, 5, 4)
    paired = jax.jit(prior.paired)
    actual, targets = paired(generated, mixtures, REAL)
    generated, mixtures = np.asarray(generated), np.asarray(mixtures)
    np.testing.assert_array_equal(targets, mixtures * REAL[..., None])
    for i in range(3):
        cost = np.abs(generated[i][:, None] - np.asarray(targets)[i][None]).sum(-1)
        rows, columns = optimize.linear_sum_assignment(cost)
        np.testing.assert_allclose(np.abs(actual[i] - targets[i]).sum(), cost[rows, columns].sum(), rtol=1e-5)
        assert {tuple(x) for x in np.asarray(actual[i])} == {tuple(x) for x in generated[i]}
    shuffled, _ = paired(mixtures[:, ::-1], mixtures, np.ones_like(REAL))
    np.testing.assert_array_equal(shuffled, mixtures)
    assert np.isnan(paired(generated * np.nan, mixtures, REAL)[0]).all(), "and it comes to an end"


def test_divergence_is_torch_s(draw) -> None:
    target, logits = draw(2, 3, 6), draw(2, 3, 6)
    logs = [functional.log_softmax(torch.tensor(np.asarray(x)), dim=-1) for x in (logits, target)]
    twin = functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    divergence = jax.jit(prior.divergence)
    np.testing.assert_allclose(divergence(target, logits), twin, atol=1e-5)
    np.testing.assert_allclose(divergence(target, target + 3), 0, atol=1e-5)


OBJECTIVE = prior.Objective(sentences=4, prototypes=6, depth=1, attention_heads=4, memory_from=5, reconstruct_from=9)


NAMES = ("vl", "region", "sentence", "memory", "pixels", "generated", "shares")


@pytest.fixture(scope="module")
def run(model, networks, make_batch):
    """`run(xrays, cts, step)`: ((loss, (metrics, new model state)), gradients)."""
    both = jax.jit(jax.value_and_grad(base.loss_function(model, OBJECTIVE), has_aux=True))
    return lambda xrays, cts, step: both(*networks, make_batch(model, xrays, cts), jax.random.key(3), jnp.int32(step))


@pytest.mark.parametrize(("xrays", "cts"), [(3, 0), (0, 3)])
def test_one_modality_alone_gives_a_finite_loss(run, xrays: int, cts: int) -> None:
    (value, (metrics, state)), _ = run(xrays, cts, 9)
    kind = "xray" if xrays else "ct"
    assert metrics.keys() == {"loss", *(f"{part}/{name}" for part in (kind, "loss") for name in NAMES)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, metrics, state)))


def test_a_mixed_batch_trains_every_head(run) -> None:
    (value, (metrics, state)), grads = run(3, 2, 9)
    assert metrics.keys() == {"loss", *(f"{part}/{name}" for part in ("xray", "ct", "loss") for name in NAMES)}
    assert value.dtype == jnp.float32
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, metrics, state, grads)))
    total = sum(getattr(OBJECTIVE, f"weight_{name}") * metrics[f"loss/{name}"].value for name in NAMES)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    for head in ("local", "generator", "pixels_xray", "pixels_ct", "scale", "scale_local"):
        assert all(leaf.any() for leaf in jax.tree.leaves(grads[f"head_{head}"])), head
    assert grads["report"]["words"]["embedding"].any()
    assert grads["vision"]["patch_3d"]["kernel"].any()


def test_memory_and_reconstruction_wait_for_their_steps(run) -> None:
    moved = []
    for step in (0, 5, 9):
        _, grads = run(3, 2, step)
        moved.append((grads["head_local"]["memory"].any(), grads["head_generator"]["learnt_queries"].any()))
    assert [tuple(map(bool, both)) for both in moved] == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize(
    "wrong",
    [{"channel_dropout": 1.0}, {"sentences": 0}, {"temperature": 0.0}, {"reconstruct_from": 3, "memory_from": 4}],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        prior.Objective(**wrong)
