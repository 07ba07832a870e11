"""MedKLIP: entities of a batch, their presence and their mentions, against slow twins; and what it trains."""

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp
from torch.nn import functional

from tests.objectives import trial
from unimedi_jax.models import heads
from unimedi_jax.objectives import entities, medklip

# Reports of tokens 1 to 9; 0 pads. 1 stands in all of them, 2 in two, 3 in two, 4 in one, 5 in three.
TEXT = np.array([[1, 2, 5, 2], [1, 3, 5, 0], [1, 2, 3, 5], [1, 4, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], bool)


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)


def test_entities_are_the_least_foreseeable_tokens() -> None:
    actual = jax.jit(entities.choose, static_argnums=(2, 3))(TEXT, MASK, 10, 6)
    assert set(actual.ids[:2].tolist()) == {2, 3}
    assert set(actual.ids[2:4].tolist()) == {4, 5}
    assert actual.informative.tolist() == [True] * 4 + [False] * 2, "what is in all reports, or in none, tells nothing"
    for i in range(4):
        for q, token in enumerate(actual.ids.tolist()):
            assert actual.present[i, q] == (token in TEXT[i][MASK[i]])


def test_mentions_are_means_of_the_words_where_an_entity_stands(draw) -> None:
    words = draw(4, 4, 3)
    actual = np.asarray(jax.jit(entities.mentions)(words, TEXT, MASK, jnp.array([2, 4, 0])))
    np.testing.assert_allclose(actual[0, 0], (words[0, 1] + words[0, 3]) / 2, atol=1e-6)
    np.testing.assert_allclose(actual[2, 0], words[2, 1], atol=1e-6)
    np.testing.assert_allclose(actual[3, 1], words[3, 1], atol=1e-6)
    assert not actual[1, 0].any()
    assert not actual[:, 2].any(), "padding is no mention"


def test_presence_is_torch_s_cross_entropy_over_what_tells(draw) -> None:
    actual = entities.choose(TEXT, MASK, 10, 6)
    logits = draw(4, 6)
    each = jax.jit(entities.presence)(logits, actual)
    target = torch.tensor(np.asarray(actual.present, np.float32))[:, :4]
    twin = functional.binary_cross_entropy_with_logits(
        torch.tensor(np.asarray(logits))[:, :4], target, reduction="none"
    )
    np.testing.assert_allclose(each, twin.mean(1), atol=1e-5)
    np.testing.assert_allclose(jax.jit(entities.presence)(jnp.zeros((4, 6)), actual), np.log(2), atol=1e-6)


def test_mention_contrast_against_a_twin_entity_by_entity(draw) -> None:
    answers, mentions = draw(4, 3, 5), draw(4, 3, 5)
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)

    def loss(answers, mentions):
        each = medklip.mention_contrast(heads.unit(answers), heads.unit(mentions), present, 0.1)
        return each.sum(), each

    grads, actual = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(answers, mentions)
    a, t = (torch.tensor(np.asarray(x), requires_grad=True) for x in (answers, mentions))
    each = [[] for _ in range(4)]
    for q in range(3):
        holders = np.nonzero(present[:, q])[0].tolist()
        for i in holders:
            logits = torch.stack([functional.cosine_similarity(a[i, q], t[j, q], dim=0) for j in holders]) / 0.1
            each[i].append(functional.cross_entropy(logits[None], torch.tensor([holders.index(i)])))
    twin = [torch.stack(values).mean() if values else torch.zeros(()) for values in each]
    sum(twin).backward()
    np.testing.assert_allclose(actual, [value.item() for value in twin], atol=1e-5)
    for grad, tensor in zip(grads, (a, t), strict=True):
        np.testing.assert_allclose(grad, tensor.grad, atol=1e-5)


def test_known_values_of_the_contrast_of_mentions() -> None:
    present = np.array([[1, 1], [1, 0], [1, 1]], bool)
    mention_contrast = jax.jit(lambda x: medklip.mention_contrast(x, x, present, 0.01))
    apart = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 2, 3))
    np.testing.assert_allclose(mention_contrast(apart), 0, atol=1e-6)
    alike = jnp.broadcast_to(jnp.eye(3)[:1, None], (3, 2, 3))
    both = (np.log(3) + np.log(2)) / 2
    np.testing.assert_allclose(mention_contrast(alike), [both, np.log(3), both], atol=1e-5)


def test_the_decoder_is_torch_s(draw, random_tree) -> None:
    """Pre-norm layers of self-attention, cross-attention and MLP, queries and memory mapped in."""
    decoder = heads.QueryDecoder(8, 2, 2, dtype=jnp.float32)
    memory, queries = draw(3, 5, 6), draw(4, 7)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), memory, queries)
    params = random_tree(shapes)["params"]
    actual = jax.jit(decoder.apply)({"params": params}, memory, queries)
    layer = torch.nn.TransformerDecoderLayer(
        8, 2, 32, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    twin = torch.nn.TransformerDecoder(layer, 2, torch.nn.LayerNorm(8, eps=1e-6))

    def put(module, weights) -> None:
        weight = weights["kernel"].T if "kernel" in weights else weights["scale"]
        module.weight.data, module.bias.data = (torch.tensor(np.asarray(x)) for x in (weight, weights["bias"]))

    for i, layer in enumerate(twin.layers):
        own = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), params["layers"])
        q, kv = own["cross"]["q"], own["cross"]["kv"]
        for attention, kernel, bias in (
            (layer.self_attn, own["attention"]["qkv"]["kernel"], own["attention"]["qkv"]["bias"]),
            (layer.multihead_attn, np.hstack([q["kernel"], kv["kernel"]]), np.hstack([q["bias"], kv["bias"]])),
        ):
            attention.in_proj_weight.data, attention.in_proj_bias.data = torch.tensor(kernel.T), torch.tensor(bias)
        put(layer.self_attn.out_proj, own["attention"]["out"])
        put(layer.multihead_attn.out_proj, own["cross"]["out"])
        for name in ("norm1", "norm2", "norm3"):
            put(getattr(layer, name), own[name])
        put(layer.linear1, own["mlp"]["fc1"])
        put(layer.linear2, own["mlp"]["fc2"])
    put(twin.norm, params["norm"])
    inside, asked, norm = torch.nn.Linear(6, 8), torch.nn.Linear(7, 8), torch.nn.LayerNorm(8, eps=1e-6)
    for module, name in ((inside, "image"), (asked, "queries"), (norm, "norm_memory")):
        put(module, params[name])
    with torch.no_grad():
        x = asked(torch.tensor(np.asarray(queries)))[None].expand(3, -1, -1)
        expected = twin(x, norm(inside(torch.tensor(np.asarray(memory)))))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


OBJECTIVE = medklip.Objective(entities=6, depth=1)


def test_one_modality_alone_gives_a_finite_loss(model, networks, make_batch) -> None:
    trial.assert_alone(model, OBJECTIVE, networks, make_batch(model, 4, 4), ("presence", "mention"))


def test_a_mixed_batch_trains_towers_and_heads_but_no_joint_space(model, networks, make_batch) -> None:
    value, metrics, state, grads = trial.gradients(model, OBJECTIVE, networks, make_batch(model, 4, 4))
    np.testing.assert_allclose(value, metrics["loss/presence"].value + metrics["loss/mention"].value, rtol=1e-5)
    assert not any(leaf.any() for side in ("image", "report") for leaf in jax.tree.leaves(grads[f"project_{side}"]))
    jax.tree.map(np.testing.assert_array_equal, state, networks.model_state)  # statistics of what is not used stay
    for part in ("head_decoder", "head_presence", "head_mention"):
        assert all(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    assert grads["report"]["words"]["embedding"].any()
    assert grads["vision"]["patch_2d"]["kernel"].any()
    assert grads["vision"]["patch_3d"]["kernel"].any()


def test_more_entities_than_tokens_are_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="entities=51"):
        make_tiny(objective=medklip.Objective(entities=51))
    with pytest.raises(ValueError, match="entities must be at least 1"):
        medklip.Objective(entities=0)
