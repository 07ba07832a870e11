"""Rules say what trains: the rest neither moves nor has optimiser state, and adapters follow the paper's equation."""

import dataclasses
import re

import jax
import numpy as np
import optax
import pytest
import torch
from jax import numpy as jnp

from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import lora, trainable, trees
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.objectives import base
from unimedi_jax.objectives.unimedi import Objective

LORA = (
    ("vision/trunk/blocks/1/norm", "full"),
    (r"vision/trunk/blocks/\d/attention/qkv/kernel$", "lora:rank=2:alpha=3"),
    ("vision/trunk/blocks/1/mlp/fc1/kernel$", "lora:rank=4"),
    ("^(vision/|report/|head_)", "frozen"),
    ("project_", "full:lr=0.5"),
)
QKV, FC1 = "vision/trunk/blocks/attention/qkv/kernel", "vision/trunk/blocks/mlp/fc1/kernel"


def leaf(tree, path: str):
    for name in path.split("/"):
        tree = tree[name]
    return tree


@pytest.fixture(scope="module")
def adapted(random_params, tiny):
    """A partition, its parameters with adapters that do something, and what trains of them."""
    params = random_params(tiny)
    partition = trainable.partition(LORA, params)
    params = partition.with_adapters(params, jax.random.key(3))
    for path in (QKV, FC1):
        adapter = leaf(params[lora.KEY], path)
        adapter["b"] = 0.1 * jax.random.normal(jax.random.key(len(path)), adapter["b"].shape)
    return partition, params, partition.split(params)


def test_a_merged_kernel_is_equation_3(adapted) -> None:
    _, params, _ = adapted
    merged = lora.merge(params)
    assert merged.keys() == params.keys() - {lora.KEY}
    qkv, fc1 = leaf(params[lora.KEY], QKV), leaf(params[lora.KEY], FC1)
    assert qkv["a"].shape == (2, 32, 2)
    assert "layers" not in qkv, "all of them"
    assert list(fc1["layers"]) == [1]
    expected = np.float64(leaf(params, QKV)) + 3 / 2 * np.float64(qkv["a"]) @ np.float64(qkv["b"])
    np.testing.assert_allclose(leaf(merged, QKV), expected, atol=float32(2, scale=2))
    np.testing.assert_array_equal(leaf(merged, FC1)[0], leaf(params, FC1)[0])
    expected = np.float64(leaf(params, FC1)[1]) + np.float64(fc1["a"][0]) @ np.float64(fc1["b"][0])
    np.testing.assert_allclose(leaf(merged, FC1)[1], expected, atol=float32(4, scale=2))
    others = {name for name in trees.names(merged) if name not in (QKV, FC1)}
    assert all(leaf(merged, name) is not None for name in others)
    for name in others:
        np.testing.assert_array_equal(leaf(merged, name), leaf(params, name))


def test_fresh_adapters_change_nothing(random_params, tiny) -> None:
    params = random_params(tiny)
    merged = lora.merge(trainable.partition(LORA, params).with_adapters(params, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_what_trains_is_split_off_and_joined_again(adapted) -> None:
    partition, params, trained = adapted
    names = set(trees.names(trained))
    adapters = {f"lora/{path}/{part}" for path in (QKV, FC1) for part in "ab"}
    norms = {f"vision/trunk/blocks/norm{i}/{part}" for i in (1, 2) for part in ("scale", "bias")}
    heads = {name for name in trees.names(params) if name.startswith("project_")}
    assert names == adapters | norms | heads
    assert leaf(trained, "vision/trunk/blocks/norm1/scale").shape == (1, 32), "the last of two layers"
    jax.tree.map(np.testing.assert_array_equal, partition.join(params, trained), params)
    moved = partition.join(params, jax.tree.map(lambda x: x + 1, trained))
    before, after = leaf(params, "vision/trunk/blocks/norm1/scale"), leaf(moved, "vision/trunk/blocks/norm1/scale")
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], before[1] + 1)
    shapes = sorted(x.shape for x in jax.tree.leaves(trained))
    moments = optax.adamw(1e-3).init(trained)[0]
    assert sorted(x.shape for x in jax.tree.leaves(moments.mu)) == shapes
    assert not partition.trains("report/")
    assert partition.trains("vision/")


def test_gradients_of_adapters_follow_from_the_kernels(adapted, tiny, make_batch) -> None:
    """dA = s G B^T and dB = s A^T G, with the gradient G of the kernel as the network without adapters has it."""
    partition, params, trained = adapted
    objective = Objective()
    loss, batch, step = base.loss_function(tiny, objective), make_batch(tiny, 2, 2), jnp.zeros((), jnp.int32)
    merged = lora.merge(params)
    teacher = {part: merged[part] for part in objective.teacher_parts(tiny)}
    shapes = jax.eval_shape(lambda: base.init_variables(tiny, objective, jax.random.key(0)))
    stats = {name: jax.tree.map(jnp.zeros_like, x) for name, x in objective.state(tiny).items()}
    stats["batch_stats"] = jax.tree.map(lambda x: jnp.ones(x.shape), shapes.get("batch_stats", {}))
    key = jax.random.key(1)

    def of_whole(x):
        return loss(x, teacher, stats, batch, jax.random.clone(key), step)[0]

    def of_trained(x):
        return of_whole(lora.merge(partition.join(params, x)))

    full = jax.jit(jax.grad(of_whole))(merged)
    grads = jax.jit(jax.grad(of_trained))(trained)
    for path, layers, scale in ((QKV, slice(None), 1.5), (FC1, [1], 1.0)):
        g, adapter = np.float64(leaf(full, path))[layers], leaf(params[lora.KEY], path)
        a, b = np.float64(adapter["a"]), np.float64(adapter["b"])
        # Two layers there and back for three losses, whose logits are divided by a temperature of 0.07.
        near = float32(64, depth=4 * LAYER_SUMS, scale=np.abs(g).max() / 0.07)
        of_adapter = leaf(grads[lora.KEY], path)
        np.testing.assert_allclose(of_adapter["a"], scale * g @ np.swapaxes(b, 1, 2), atol=near)
        np.testing.assert_allclose(of_adapter["b"], scale * np.swapaxes(a, 1, 2) @ g, atol=near)
    norm = "vision/trunk/blocks/norm1/scale"
    near = float32(64, depth=4 * LAYER_SUMS, scale=np.abs(leaf(full, norm)).max() / 0.07)
    np.testing.assert_allclose(leaf(grads, norm), leaf(full, norm)[1:], atol=near)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_is_the_same_to_the_bit_inside_any_program(adapted, dtype: str) -> None:
    partition, params, trained = adapted
    x = jax.random.normal(jax.random.key(0), (5, 32)).astype(dtype)

    def program(params):
        merged = lora.merge(params)
        kernels = leaf(merged, QKV)
        y = jnp.tanh(x @ kernels[0].astype(dtype)) * kernels.sum(axis=(0, 1))[None].astype(dtype)
        return y, merged

    inside = jax.jit(program)(params)[1]
    jax.tree.map(np.testing.assert_array_equal, inside, lora.merge(params))

    def loss(x):
        y, merged = program(partition.join(params, x))
        return y.astype(jnp.float32).sum(), merged

    inside = jax.jit(jax.grad(loss, has_aux=True))(trained)[1]
    jax.tree.map(np.testing.assert_array_equal, inside, lora.merge(params))


def test_scaled_updates_are_adamw_at_a_lower_rate() -> None:
    start = {"a": {"kernel": jnp.ones((3, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    partition = trainable.partition((("a/", "full:lr=0.25"), ("b/", "full")), start)
    tx = trainable.scaled(optax.adamw(0.1, weight_decay=0.3), partition.rates)
    torches = {name: torch.ones(*x["kernel"].shape, requires_grad=True) for name, x in start.items()}
    judge = torch.optim.AdamW(
        [{"params": [torches["a"]], "lr": 0.025}, {"params": [torches["b"]], "lr": 0.1}], weight_decay=0.3
    )
    params, state = start, tx.init(start)
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, x in torches.items():
            x.grad = torch.tensor(grads[name]["kernel"])
        judge.step()
    for name, x in torches.items():
        np.testing.assert_allclose(params[name]["kernel"], x.detach().numpy(), atol=float32(3, depth=12))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((("vision/", "full"),), "no trainable rule matches the parameter head_cls"),
        ((("vision/blocks/9/", "full"), (".*", "full")), "match no parameter: ['vision/blocks/9/']"),
        ((("norm1", "lora:rank=2"), (".*", "full")), "no dense kernel"),
        (((".*qkv/kernel", "lora:rank=99"), (".*", "full")), "lora:rank=99 is more than"),
        (((".*blocks/0/.*kernel", "lora:rank=2"), (".*blocks/.*kernel", "lora:rank=3"), (".*", "full")), "several"),
        (((".*", "frozen"),), "nothing would train"),
    ],
)
def test_rules_that_fit_nothing_are_errors(random_params, tiny, asked, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        trainable.partition(asked, random_params(tiny))


@pytest.mark.parametrize(
    "text", ["fully", "lora", "lora:rank=0", "lora:rank=1.5", "lora:rank=x", "full:rank=3", "full:lr=-1", "frozen:lr=1"]
)
def test_choices_that_mean_nothing_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of|has no rank"):
        rules.parse(text)
    with pytest.raises(ValueError, match=r"config\.trainable: "):
        dataclasses.replace(PretrainConfig(), trainable=((".*", text),))
    for rule in (("(", "full"), ("a", "b", "c"), "ab"):
        with pytest.raises(ValueError, match=r"config\.trainable: "):
            dataclasses.replace(PretrainConfig(), trainable=(rule,))
