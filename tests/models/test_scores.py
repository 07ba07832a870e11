"""Registers, and eq. 1 by layers, by rollout and without sinks, against PyTorch's whole attention on copied weights."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.models.test_vision import DEPTH, HEADS, WIDTH, run, tensor, torch_vit
from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.models import attention, scores, sizes, towers

torch = pytest.importorskip("torch")
SIZE = sizes.Size(WIDTH, DEPTH, HEADS, 64)
REGISTERS = 3
ATOL = float32(64, depth=DEPTH * LAYER_SUMS)


@pytest.fixture(scope="module")
def params(make_tiny, random_params):
    return random_params(make_tiny(size=SIZE, registers=REGISTERS))["vision"]


@pytest.fixture(scope="module")
def tokens() -> jax.Array:
    """Two of them are far longer than the others."""
    drawn = np.random.default_rng(0).standard_normal((3, 13, WIDTH)).astype(np.float32)
    drawn[0, 4] *= 9
    drawn[1, 7] *= 9
    return jnp.asarray(drawn)


@pytest.fixture(scope="module")
def judged(params, tokens):
    """PyTorch's output, the input of each layer (l, b, n, d) and its attention (l, b, heads, n, n), with registers."""
    encoder = torch_vit(params)
    cls = tensor(params["cls"] + params["position_cls"]).expand(3, 1, WIDTH)
    registers = tensor(params["registers"]).expand(3, REGISTERS, WIDTH)
    x = torch.cat([cls, registers, tensor(tokens)], dim=1)
    streams, weights = [], []
    with torch.no_grad():
        out = encoder(x)
        for layer in encoder.layers:
            normed = layer.norm1(x)
            streams.append(x)
            weights.append(layer.self_attn(normed, normed, normed, average_attn_weights=False)[1])
            x = layer(x)
    return out.numpy(), torch.stack(streams).numpy(), torch.stack(weights).numpy()


def scored(make_tiny, params, tokens, **settings) -> np.ndarray:
    tower = make_tiny(size=SIZE, registers=REGISTERS, **settings).vision
    return np.asarray(run(tower, params, tokens, True, method="encode").scores)


def test_registers_take_part_and_are_no_patches(make_tiny, params, tokens, judged) -> None:
    encoded = run(make_tiny(size=SIZE, registers=REGISTERS).vision, params, tokens, True, True, method="encode")
    out, _, weights = judged
    np.testing.assert_allclose(encoded.cls, out[:, 0], atol=1e-4)
    np.testing.assert_allclose(encoded.patches, out[:, 1 + REGISTERS :], atol=1e-4)
    assert encoded.patches.shape == tokens.shape
    assert encoded.hidden.shape == (DEPTH, *tokens.shape)
    row = weights[..., 0, 1 + REGISTERS :]
    np.testing.assert_allclose(encoded.scores, row.mean(axis=(0, 2)), atol=ATOL)
    alone = scored(make_tiny, params, tokens, cls_key=False)
    np.testing.assert_allclose(alone, (row / row.sum(-1, keepdims=True)).mean(axis=(0, 2)), atol=ATOL)
    moved = {**params, "registers": -params["registers"]}
    other = run(make_tiny(size=SIZE, registers=REGISTERS).vision, moved, tokens, method="encode").cls
    assert np.abs(other - encoded.cls).max() > 0.01


def test_no_registers_no_parameter(tiny_variables) -> None:
    assert "registers" not in tiny_variables["params"]["vision"]


@pytest.mark.parametrize("layers", [1, 2, DEPTH])
def test_the_last_layers_alone(make_tiny, params, tokens, judged, layers: int) -> None:
    expected = judged[2][-layers:, ..., 0, 1 + REGISTERS :].mean(axis=(0, 2))
    np.testing.assert_allclose(scored(make_tiny, params, tokens, score_layers=layers), expected, atol=ATOL)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("kind", ["xla", "blocks"])
def test_rollout_is_the_product_of_all_layers(make_tiny, params, tokens, judged, monkeypatch, layers, kind) -> None:
    monkeypatch.setitem(attention.SHORT, "blocks", 1)  # or they would be left to "xla"
    product = np.eye(tokens.shape[1] + 1 + REGISTERS)
    for weights in judged[2][-layers:].astype(np.float64):
        product = (weights.mean(axis=1) + np.eye(weights.shape[-1])) / 2 @ product
    actual = scored(make_tiny, params, tokens, scores="rollout", score_layers=layers, attention=kind)
    np.testing.assert_allclose(actual, product[:, 0, 1 + REGISTERS :], atol=ATOL)


def test_rollout_by_the_kernel_of_tpus(monkeypatch) -> None:
    """The kernel runs in its interpreter, on 200 tokens."""
    q, k = (jax.random.normal(jax.random.key(i), (2, 1, 200, 2, 8)) for i in range(2))
    plain = scores.rollout(q, k, "xla")
    interpreted = lambda q, k, v, mask=None: attention.splash(q, k, v, mask, interpret=True)  # noqa: E731
    monkeypatch.setattr(attention, "attend", lambda q, k, v, kind: interpreted(q, k, v))
    np.testing.assert_allclose(scores.rollout(q, k, "splash"), plain, atol=float32(200))


def test_rollout_changes_no_gradient(make_tiny, params, tokens) -> None:
    """As where a student's pass gives scores beside what its loss takes."""
    tower = make_tiny(size=SIZE, registers=REGISTERS, scores="rollout").vision

    def total(params, with_scores: bool):
        encoded = tower.apply({"params": params}, tokens, with_scores, method="encode")
        return jnp.sum(encoded.patches**2) + (0 if encoded.scores is None else jnp.sum(encoded.scores))

    with_scores, without = (jax.jit(jax.grad(total), static_argnums=1)(params, on) for on in (True, False))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(without))
    atol = float32(64, depth=2 * DEPTH * LAYER_SUMS, scale=largest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), with_scores, without)


@pytest.mark.parametrize("cls_key", [True, False])
def test_sinks_do_not_count_in_the_layers_where_they_are_sinks(make_tiny, params, tokens, judged, cls_key) -> None:
    _, streams, weights = judged
    total, times = np.zeros(tokens.shape[:2]), np.zeros(tokens.shape[:2])
    for stream, weight in zip(streams, weights, strict=True):
        for sample in range(len(tokens)):
            norms = np.sqrt((stream[sample, 1 + REGISTERS :].astype(np.float64) ** 2).sum(axis=-1))
            spread = np.median(np.abs(norms - np.median(norms)))
            counts = [j for j, norm in enumerate(norms) if 0.6745 * (norm - np.median(norms)) / spread <= 3.5]
            others = [0, 1, 2, 3] if cls_key else []
            for head in weight[sample]:
                row = {j: head[0, 1 + REGISTERS + j] for j in counts}
                whole = sum(row.values()) + sum(head[0, j] for j in others)
                for j, value in row.items():
                    total[sample, j] += value / whole / HEADS
            times[sample, counts] += 1
    assert 0 < (times < DEPTH).sum() < times.size / 2, "no sink, or too many, prove nothing"
    assert (times[[0, 1], [4, 7]] < DEPTH).all()
    expected = total / np.maximum(times, 1)
    np.testing.assert_allclose(scored(make_tiny, params, tokens, sink_norm=3.5, cls_key=cls_key), expected, atol=ATOL)


def test_tokens_of_one_norm_are_no_sinks() -> None:
    assert not scores.sinks(jnp.ones((2, 5, 4)), 3.5).any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(scores="max"), "scores must be one of mean, rollout, not 'max'"),
        (dict(scores="rollout", sink_norm=3.5), "rollout"),
        (dict(scores="rollout", cls_key=False), "rollout"),
        (dict(registers=-1), "at least 0"),
        (dict(score_layers=13), "score_layers=13, but the ViT has 12 layers"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        towers.build_model(ModelConfig(**settings), 100)
