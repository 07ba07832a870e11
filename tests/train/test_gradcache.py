"""A batch in parts gives the loss, the metrics, the statistics and the gradients of the whole batch."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from unimedi_jax import lora, sharding, trainable, trees
from unimedi_jax.models import towers
from unimedi_jax.objectives import base
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import gradcache
from unimedi_jax.train import step as steps

pytestmark = pytest.mark.usefixtures("eight_devices")

WITHOUT_TEACHER = {"weight_icl": 0.0, "weight_pcl": 0.0, "mask_ratio": 0.0}
# Views of the whole sample: random ones are each part's own.
LIGHT = {"brightness": 0.0, "contrast": 0.0, "noise": 0.0}
WHOLE = {"two_views": True, "crop_scale": (1.0, 1.0), "crop_aspect": 1.0, **LIGHT}
TEXT = {
    "soft_targets": 0.2,
    "negation": True,
    "report_halves": True,
    "weight_local": 1.0,
    "sentences": 3,
    "local_chunk": 4,
}
SETTINGS = [
    {},
    {"mask_mode": "mask_token", "contrastive_chunk": 12, "identical_reports": True},
    {"weight_icl": 0.0},
    {"negatives": "modality", "contrastive_chunk": 8, "weight_koleo": 1.0, **WHOLE, **TEXT},
]


@pytest.fixture(scope="module")
def model(tiny):
    """With the heads of all settings."""
    return tiny.clone(head=Objective(**TEXT).heads(tiny))


@pytest.fixture(scope="module")
def arguments(model, tiny_variables, random_tree, make_batch):
    """Student, a teacher that disagrees, statistics; a batch of 32 X-rays and 16 CTs with two texts."""
    student = tiny_variables["params"]
    shapes = jax.eval_shape(lambda: base.init_variables(model, Objective(**TEXT), jax.random.key(0)))["params"]
    student = student | random_tree({name: shapes[name] for name in ("head_region", "head_sentence")})
    teacher = {part: student[part] for part in ("vision", "head_cls", "head_patch")}
    teacher = random_tree(teacher, scale=0.02, around=1.0)
    stats = {
        "batch_stats": tiny_variables["batch_stats"],
        "centre_cls": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 24)),
        "centre_patch": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 16)),
    }
    batch = make_batch(model, 32, 16)
    for part in batch.values():
        part |= {"negated": part["text"].at[::2, 1].set(7), "negated_mask": part["text_mask"]}
        part |= {"other": part["text"][:, ::-1], "other_mask": part["text_mask"][:, ::-1]}
    return (student, teacher, stats), batch


def compiled(model: towers.UniMedI, arguments, parts: int, settings: dict) -> jax.stages.Compiled:
    objective = Objective(**{"weight_vl": 0.5, "weight_icl": 2.0, "weight_pcl": 3.0} | settings)
    if parts > 1:
        function = gradcache.value_and_grad(model, objective, parts)
    else:
        function = jax.value_and_grad(base.loss_function(model, objective), has_aux=True)
    run = jax.jit(lambda trees, batch: function(*trees, batch, jax.random.key(3), jnp.int32(0)))
    return run.lower(*arguments).compile()


@pytest.mark.parametrize(
    ("parts", "settings", "devices"),
    [(4, SETTINGS[0], 1), (2, SETTINGS[1], 8), (2, SETTINGS[2], 1), (2, SETTINGS[3], 8)],
)
def test_parts_give_what_the_whole_gives(model, arguments, parts: int, settings: dict, devices: int) -> None:
    """In parts on one device or on a mesh, the whole on one."""
    whole = compiled(model, arguments, 1, settings)
    mesh = sharding.make_mesh(fsdp=2) if devices > 1 else sharding.make_mesh(devices=jax.devices()[:1])
    networks, batch = arguments
    placed = jax.device_put(networks, jax.NamedSharding(mesh, jax.P())), sharding.put_batch(batch, mesh)
    with jax.set_mesh(mesh):
        divided = compiled(model, placed, parts, settings)
        (loss, aux), grads = jax.device_get(divided(*placed))
    (expected_loss, expected_aux), expected_grads = jax.device_get(whole(*arguments))
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    for name, ours, expected in zip(trees.names(aux), *map(jax.tree.leaves, (aux, expected_aux)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5, err_msg=name)
    length = float(jax.jit(optax.tree.norm)(expected_grads))
    for name, ours, expected in zip(trees.names(grads), *map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * length, rtol=1e-5, err_msg=name)
    # The rule for a batch of equal parts, without its negatives, would be off by log(parts).
    negatives = 1 / 3 * np.log(16) + 2 / 3 * np.log(32) if "negatives" in settings else np.log(48)
    assert aux[0]["loss/vl"].value > negatives - 0.5 * np.log(parts)
    if parts == 4:
        bytes_used = [run.memory_analysis().temp_size_in_bytes for run in (divided, whole)]
        assert bytes_used[0] < bytes_used[1] / 2


def test_parts_without_a_teacher(make_tiny, tiny_variables, make_batch) -> None:
    """No slices, no masks, no distillation: what the first pass hands to the second is empty."""
    model, objective = make_tiny(slices=0), Objective(**WITHOUT_TEACHER)
    assert objective.teacher_parts(model) == ()
    state = {"batch_stats": tiny_variables["batch_stats"], **objective.state(model)}
    start = tiny_variables["params"], {}, state, make_batch(model, 4, 2)
    whole = jax.value_and_grad(base.loss_function(model, objective), has_aux=True)
    functions = gradcache.value_and_grad(model, objective, 2), whole
    ours, expected = (jax.jit(run)(*start, jax.random.key(3), jnp.int32(0)) for run in functions)
    for name, got, leaf in zip(trees.names(ours), *map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(got, leaf, atol=1e-5, rtol=1e-4, err_msg=name)


def test_parts_follow_the_scores_of_all_slices(make_tiny, random_tree, make_batch) -> None:
    """With every other token of a CT too: planes finer than the volume's, the frontal view, registers, sub-patches."""
    views = dict(slice_baseline=0.5, slice_source=(64, 64), frontal_view=True)
    model = make_tiny(**views, registers=2, tokenizer="nonlinear", subpatch_hidden=4, score_layers=1, sink_norm=3.5)
    objective = Objective()
    variables = jax.jit(lambda: base.init_variables(model, objective, jax.random.key(0)))()
    params = variables["params"]
    teacher = random_tree({name: params[name] for name in objective.teacher_parts(model)}, scale=0.05, around=1.0)
    before = jnp.array([0.05, 0.0, 0.0, 0.1])
    stats = {**variables["batch_stats"], "slice_baseline": {"mean": before}}
    start = params, teacher, {"batch_stats": stats, **objective.state(model)}, make_batch(model, 4, 4)
    assert start[-1]["ct"]["tokens"].shape == (4, 16, 4 * 32 * 32)
    whole = jax.value_and_grad(base.loss_function(model, objective), has_aux=True)
    functions = gradcache.value_and_grad(model, objective, 2), whole
    ours, expected = (jax.jit(run)(*start, jax.random.key(3), jnp.int32(0)) for run in functions)
    length = float(jax.jit(optax.tree.norm)(expected[1]))
    for name, got, leaf in zip(trees.names(ours), *map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(got, leaf, atol=1e-5 * max(length, 1), rtol=1e-4, err_msg=name)
    after = expected[0][1][1]["batch_stats"]["slice_baseline"]["mean"]

    def scores(params, tokens):
        bound = model.bind({"params": params})
        encoded = bound.encode(bound.embed_volume(tokens), scores=True)
        return encoded.scores.reshape(4, 4, 4).mean(axis=(0, 2))

    np.testing.assert_allclose(after, (before + jax.jit(scores)(teacher, start[-1]["ct"]["tokens"])) / 2, atol=1e-6)


def test_both_passes_have_the_same_dropout(make_tiny, random_params, make_batch) -> None:
    """The gradient is that of the loss, in the direction in which the loss moves: other dropout would turn it away."""
    model = make_tiny(report_dropout=0.5, projection="linear")
    objective = Objective(weight_icl=0.0, weight_pcl=0.0, mask_ratio=0.0)
    params = random_params(model)
    start = ({"vision": params["vision"]}, {"batch_stats": {}, **objective.state(model)}, make_batch(model, 4, 4))
    function = jax.jit(gradcache.value_and_grad(model, objective, 2))

    def loss(params) -> tuple[float, dict]:
        (value, _), grads = function(params, *start, jax.random.key(3), jnp.int32(0))
        return float(value), grads["report"]

    _, grads = loss(params)
    length = float(optax.tree.norm(grads))
    step = 1e-2
    ends = [
        loss(params | {"report": jax.tree.map(lambda x, g, s=s: x + s * step / length * g, params["report"], grads)})[0]
        for s in (1, -1)
    ]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(length, rel=0.05)


def test_adapters_in_parts_get_the_gradients_of_the_whole(model, arguments) -> None:
    (student, *rest), batch = arguments
    rules = ((r"^vision/.*qkv/kernel$", "lora:rank=2"), ("project_", "full"), (".*", "frozen"))
    partition = trainable.partition(rules, student)
    student = partition.with_adapters(student, jax.random.key(1))
    trained = jax.tree.map(lambda x: x + 0.05, partition.split(student))

    def gradients(parts: int):
        def run(trained, batch):
            whole = steps.by_stage(model, Objective(), parts, lambda x: lora.merge(partition.join(student, x)))
            return whole(trained, *rest, batch, jax.random.key(3), jnp.int32(0))

        return jax.device_get(jax.jit(run)(trained, batch))

    (loss, _), ours = gradients(4)
    (expected_loss, _), expected = gradients(1)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    length = float(optax.tree.norm(expected))
    assert set(trees.names(ours)) == set(trees.names(trained))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * length, rtol=1e-5), ours, expected)
