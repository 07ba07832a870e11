"""Meshes and layouts; eight simulated devices give what one gives."""

import math

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P

from data.errors import UserError
from unimedi_jax import hlo, optim, sharding, trees
from unimedi_jax.config.pretraining import ModelConfig, OptimConfig
from unimedi_jax.models import towers
from unimedi_jax.objectives import base
from unimedi_jax.objectives import unimedi as objective
from unimedi_jax.train import state

pytestmark = pytest.mark.usefixtures("eight_devices")

EVERYTHING = ((".*", "fsdp"),)
MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]


@pytest.fixture
def small_leaves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards leaves of a tiny model, too."""
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 128)


def test_a_mesh_fills_the_devices() -> None:
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(sharding.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    for sizes in ({"data": 3, "fsdp": 2}, {"data": 4}, {"fsdp": 3}):
        with pytest.raises(UserError, match="does not fill 8 devices"):
            sharding.make_mesh(**sizes)


def test_the_largest_dimension_that_divides_is_split() -> None:
    mesh = sharding.make_mesh(4, 2)
    big = 2**21
    tree = {
        "tall": jax.ShapeDtypeStruct((big, 2), jnp.float32),
        "wide": jax.ShapeDtypeStruct((2, 3, big), jnp.float32),
        "odd": jax.ShapeDtypeStruct((big + 1, 2), jnp.float32),
        "indivisible": jax.ShapeDtypeStruct((big + 1, 3), jnp.float32),
        "small": jax.ShapeDtypeStruct((big // 4,), jnp.float32),
        "half": jax.ShapeDtypeStruct((big,), jnp.bfloat16),
        "key": jax.eval_shape(lambda: jax.random.key(0)),
        "replicated": jax.ShapeDtypeStruct((big, 2), jnp.float32),
    }
    layout = sharding.layout(tree, mesh, (("^replicated$", "replicate"), *EVERYTHING))
    assert {name: where.spec for name, where in layout.items()} == {
        "tall": P("fsdp"),
        "wide": P(None, None, "fsdp"),
        "odd": P(None, "fsdp"),
        "indivisible": P(),
        "small": P(),
        "half": P("fsdp"),
        "key": P(),
        "replicated": P(),
    }


def test_rules_that_do_not_fit_are_refused() -> None:
    mesh, tree = sharding.make_mesh(4, 2), {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    with pytest.raises(ValueError, match="no sharding rule matches the parameter b"):
        sharding.layout(tree, mesh, (("a", "fsdp"),))
    with pytest.raises(ValueError, match=r"match no parameter: .'trunk'"):
        sharding.layout(tree, mesh, (("trunk", "fsdp"), *EVERYTHING))
    with pytest.raises(UserError, match="neither 'fsdp' nor 'replicate'"):
        sharding.layout(tree, mesh, ((".*", "tensor"),))


@pytest.mark.usefixtures("small_leaves_too")
def test_one_rule_reaches_parameter_moments_and_teacher(tiny) -> None:
    tx, _ = optim.make(OptimConfig(warmup_steps=1, peak_lr=1e-3), steps=10)
    abstract = jax.eval_shape(state.make_init(tiny, tx, objective.Objective()), jax.random.key(0))
    mesh = sharding.make_mesh(4, 2)
    rules = (("trunk/blocks/mlp/fc1/kernel$", "fsdp"), (".*", "replicate"))
    layout = sharding.layout(abstract, mesh, rules)
    specs = zip(trees.names(abstract), jax.tree.leaves(layout), strict=True)
    split = [name for name, where in specs if where.spec != P()]
    parts = sorted(name.removesuffix("vision/trunk/blocks/mlp/fc1/kernel") for name in split)
    assert len(parts) == 4
    assert parts[-2:] == ["params/", "teacher/"]
    assert [part.split("/")[-2] for part in parts[:2]] == ["mu", "nu"]


@pytest.mark.parametrize("fsdp", [2, 8])
def test_the_state_of_vit_b_is_split_evenly(fsdp: int) -> None:
    """Parameters, moments, teacher and centres: what is too small to split is under a fiftieth of it all."""
    tx, _ = optim.make(OptimConfig(warmup_steps=1, peak_lr=1e-3), steps=10)
    model = towers.build_model(ModelConfig(), 28_996)
    model = model.clone(head=objective.Objective().heads(model))
    abstract = jax.eval_shape(state.make_init(model, tx, objective.Objective()), jax.random.key(0))
    layout = sharding.layout(abstract, sharding.make_mesh(fsdp=fsdp), EVERYTHING)

    def size(leaf: jax.ShapeDtypeStruct, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * leaf.dtype.itemsize

    pairs = list(zip(*map(jax.tree.leaves, (abstract, layout)), strict=True))
    whole = sum(size(leaf, leaf.shape) for leaf, _ in pairs)
    mine = sum(size(leaf, where.shard_shape(leaf.shape)) for leaf, where in pairs)
    assert whole > 3.9 * 4 * trees.count(abstract.params["vision"])
    assert mine < whole / fsdp + 0.02 * whole


def test_a_host_keeps_its_rows_of_a_batch_that_all_have_read() -> None:
    rows = np.arange(16.0).reshape(16, 1)
    placed = sharding.put_same((rows, rows[:, 0] > 3), sharding.make_mesh(4, 2))
    np.testing.assert_array_equal(placed[0], rows)
    np.testing.assert_array_equal(placed[1], rows[:, 0] > 3)
    assert {shard.data.shape for shard in placed[0].addressable_shards} == {(2, 1)}


def test_rows_of_a_batch_are_spread_over_every_device() -> None:
    rows = np.arange(16.0).reshape(16, 1)
    for sizes in MESHES:
        placed = sharding.put_batch({"x": rows}, sharding.make_mesh(*sizes))["x"]
        np.testing.assert_array_equal(placed, rows)
        assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 1)}


@pytest.mark.usefixtures("small_leaves_too")
def test_no_device_gathers_the_reports_of_others(tiny) -> None:
    """Weights are gathered, activations never: not even for the gradient of the word table."""
    mesh, rows, length = sharding.make_mesh(2, 4), 64, 16  # 4 divides the width of the table, not its 50 rows
    shapes = jax.eval_shape(lambda: towers.init(tiny, jax.random.key(0)))["params"]["report"]
    layout = sharding.layout(shapes, mesh, EVERYTHING)
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, layout
    )
    text = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding.batch_sharding(mesh))
    mask = jax.ShapeDtypeStruct((rows, length), bool, sharding=sharding.batch_sharding(mesh))

    def loss(params, text, mask):
        return tiny.report.apply({"params": params}, text, mask, True).vector.sum()

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss), out_shardings=layout).lower(abstract, text, mask).compile()
    made = hlo.parse(compiled.as_text()).instructions()
    gathered = [one for one, _, _ in made if one.opcode.startswith("all-gather")]
    assert gathered, "the weights are"
    largest = max(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert largest < rows * length * tiny.report.width / 2
    for one in gathered:
        assert all(math.prod(shape.sizes) <= largest for shape in one.shapes), one


@pytest.fixture(scope="module")
def arguments(tiny, tiny_variables, make_batch):
    params = tiny_variables["params"]
    teacher = {part: params[part] for part in objective.Objective.teacher}
    stats = {
        "batch_stats": tiny_variables["batch_stats"],
        "centre_cls": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 24)),
        "centre_patch": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 16)),
    }
    return (params, teacher, stats), jax.tree.map(np.asarray, make_batch(tiny, 8, 8))


@pytest.fixture(scope="module")
def gradients(tiny):
    """Loss, new statistics and gradients of a batch."""
    function = base.loss_function(tiny, objective.Objective())

    def loss(trees, batch, key):
        value, (_, stats) = function(*trees, batch, key, jnp.int32(0))
        return value, stats

    def run(trees, batch):
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(trees, batch, jax.random.key(0))
        return value, stats, grads[0]

    return run


@pytest.fixture(scope="module")
def on_one_device(arguments, gradients):
    return jax.tree.map(np.asarray, jax.jit(gradients)(*arguments))


@pytest.mark.usefixtures("small_leaves_too")
@pytest.mark.parametrize(("data", "fsdp"), MESHES)
def test_eight_devices_give_what_one_gives(arguments, gradients, on_one_device, data: int, fsdp: int) -> None:
    mesh = sharding.make_mesh(data, fsdp)
    layout = sharding.layout(arguments[0], mesh, EVERYTHING)
    split = [where for where in jax.tree.leaves(layout) if not where.is_fully_replicated]
    assert bool(split) == (fsdp > 1)
    placed = jax.device_put(arguments[0], layout)
    with jax.set_mesh(mesh):
        result = jax.jit(gradients)(placed, sharding.put_batch(arguments[1], mesh))
    assert result[0] == pytest.approx(on_one_device[0], rel=1e-5)
    # A sum in another order errs by the size of its terms, hence the length of all gradients as the measure.
    length = optax.tree.norm(on_one_device[2])
    for name, ours, expected in zip(
        trees.names(result), jax.tree.leaves(result), jax.tree.leaves(on_one_device), strict=True
    ):
        allowed = 1e-5 * (length if name.startswith("2/") else 1.0)
        np.testing.assert_allclose(ours, expected, atol=allowed, rtol=1e-5, err_msg=name)
