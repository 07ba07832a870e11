"""The objective: what the student sees, what is distilled, and where gradients go."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp

from tests.objectives import trial
from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import losses
from unimedi_jax.models import sizes, vision
from unimedi_jax.objectives import base
from unimedi_jax.objectives.distillation import CENTRES, target_information, teacher_stats
from unimedi_jax.objectives.unimedi import Objective

IMAGE, VOLUME, JOINT = 16, 16, 48  # tokens of the tiny model: an X-ray, a volume, slices and volume


@pytest.fixture(scope="module")
def networks(tiny, random_params, random_tree):
    """(student, teacher, stats): two networks that disagree."""
    student = random_params(tiny)
    teacher = random_tree({part: student[part] for part in ("vision", "head_cls", "head_patch")}, around=0.8)
    return student, teacher, fresh_stats()


def fresh_stats():
    sides = ("project_image", "project_report")
    widths = {"norm1": 32, "norm2": 16}
    norms = {k: {"mean": jnp.zeros(w), "var": jnp.ones(w)} for k, w in widths.items()}
    return {
        "batch_stats": dict.fromkeys(sides, norms),
        "centre_cls": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 24)),
        "centre_patch": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 16)),
    }


def loss(model, objective: Objective):
    """The objective as a jitted function of (student, teacher, model state, batch)."""
    return jax.jit(trial.loss(model, objective))


class Views(NamedTuple):
    """Student and teacher on the same samples."""

    student_cls: jax.Array
    teacher_cls: jax.Array
    student_patches: jax.Array
    teacher_patches: jax.Array


def views(modality: str, model, objective: Objective):
    """A jitted function of (student, teacher, tokens, step): what both networks give for one modality."""

    def run(params, teacher, tokens, step=0):
        text = jnp.ones((len(tokens), 4), int)
        batch = {modality: {"tokens": tokens, "text": text, "text_mask": text > 0}}

        def forward(student):
            bound = base.bind_teacher(model, teacher)
            targets = objective.teacher_forward(bound, batch, student.make_rng("draws"), jnp.int32(step))
            outputs, _ = objective.student_forward(student, batch, targets)
            of_student, of_teacher = outputs[modality], targets[modality]
            return Views(of_student.cls, of_teacher.cls, of_student.patches, of_teacher.patches)

        return base.apply(model, forward, params, {}, jax.random.key(3))[0]

    return jax.jit(run)


@pytest.mark.parametrize("name", ["xray", "ct"])
@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 1 / 2),
        ({"mask_ratio": 0.75}, 1 / 4),
        ({"mask_ratio": 0.3}, 0.7),
        ({"mask_ratio": 0.0}, 1),
        ({"mask_block": 2}, 1 / 2),
        ({"mask_scope": "part"}, 1 / 2),
        ({"mask_by": "random"}, 1 / 2),
        ({"mask_mode": "mask_token"}, 1 / 2),
    ],
)
def test_lengths_of_the_sequences(tiny, networks, make_batch, name: str, settings: dict, share: float) -> None:
    lengths = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, vision.Trunk) and context.method_name == "__call__":
            lengths.append(args[0].shape[1])
        return call(*args, **kwargs)

    tokens = make_batch(tiny, 2, 2)[name]["tokens"]
    with nn.intercept_methods(record):
        output = jax.eval_shape(views(name, tiny, Objective(**settings)), *networks[:2], tokens)
    whole = {"xray": IMAGE, "ct": JOINT}[name]
    count = int(np.ceil(round(share * whole, 6)))
    drops = settings.get("mask_mode") != "mask_token"
    teachers = [1 + whole] if name == "xray" else [1 + VOLUME, 1 + whole]
    assert lengths == [*teachers, 1 + count if drops else 1 + whole]
    paired = count if drops else whole - count
    assert output.student_cls.shape == output.teacher_cls.shape == (2, 32)
    assert output.student_patches.shape == output.teacher_patches.shape == (2, paired, 32)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("xray", {}), ("xray", {"mask_mode": "mask_token"}), ("ct", {"mask_ratio": 0.75}), ("ct", {"mask_scope": "part"})],
)
def test_the_student_sees_cls_and_the_best_scored_tokens(tiny, networks, make_batch, name: str, settings: dict) -> None:
    student, teacher, _ = networks
    objective = Objective(**settings)
    tokens = make_batch(tiny, 3, 3)[name]["tokens"]
    output = views(name, tiny, objective)(student, teacher, tokens)

    def apply(params, *args, method):
        return jax.jit(lambda p: tiny.apply({"params": p}, *args, method=method))(params)

    if name == "xray":
        embed, args = "embed_xray", (tokens,)
    else:
        volume = apply(teacher, apply(teacher, tokens, method="embed_volume"), True, method="encode")
        by_layer = np.asarray(volume.scores).reshape(3, 4, 4).mean(axis=2)
        layers = np.sort(np.argsort(-by_layer, axis=1)[:, :2], axis=1)
        embed, args = "embed_ct", (tokens, jnp.asarray(layers))
    judge = apply(teacher, apply(teacher, *args, method=embed), True, method="encode")
    scores = np.asarray(judge.scores)
    parts = [(0, 32), (32, 48)] if "mask_scope" in settings else [(0, scores.shape[1])]
    keep = [
        start + np.argsort(-scores[:, start:end], axis=1)[:, : round((end - start) * (1 - ratio))]
        for start, end in parts
        for ratio in [objective.mask_ratio]
    ]
    keep = np.sort(np.concatenate(keep, axis=1), axis=1)
    rows = np.arange(3)[:, None]
    if objective.mask_mode == "drop":
        visible = apply(student, *args, method=embed)[rows, keep]
        expected = apply(student, visible, method="encode")
        patches, where = expected.patches, keep
    else:
        hidden = np.ones(scores.shape, bool)
        hidden[rows, keep] = False
        tokens = apply(student, *args, jnp.asarray(hidden), method=embed)
        expected = apply(student, tokens, method="encode")
        where = np.nonzero(hidden)[1].reshape(3, -1)
        patches = expected.patches[rows, where]
    np.testing.assert_allclose(output.student_cls, expected.cls, atol=1e-4)
    np.testing.assert_allclose(output.student_patches, patches, atol=1e-4)
    np.testing.assert_allclose(output.teacher_cls, judge.cls, atol=1e-4)
    np.testing.assert_allclose(output.teacher_patches, judge.patches[rows, where], atol=1e-4)


def test_nothing_masked_and_one_network_is_one_view(tiny, networks, make_batch) -> None:
    student = networks[0]
    output = views("ct", tiny, Objective(mask_ratio=0.0))(student, student, make_batch(tiny, 0, 2)["ct"]["tokens"])
    np.testing.assert_allclose(output.student_cls, output.teacher_cls, atol=1e-4)
    np.testing.assert_allclose(output.student_patches, output.teacher_patches, atol=1e-4)


@pytest.fixture(scope="module")
def shallow(make_tiny):
    """`shallow(**settings)`: one layer, for what has to compile often."""
    size = sizes.Size(32, 1, 4, 64)
    return lambda **settings: make_tiny(size=size, **settings)


@pytest.mark.parametrize(
    ("model_settings", "settings"),
    [
        ({}, {"mask_mode": "mask_token"}),
        ({}, {"mask_by": "random", "slices_by": "random"}),
        ({}, {"mask_scope": "part", "mask_block": 2}),
        ({"slices": 0}, {"mask_scope": "part"}),
        ({"slices_per_layer": 4}, {}),
        ({"volume_size": (8, 64, 64), "volume_patch": (1, 32, 32), "slices": 7}, {}),
        ({"dtype": "bfloat16", "report_dropout": 0.1, "report_pooling": "mean"}, {}),
    ],
)
def test_every_mode_gives_a_finite_loss(
    shallow, random_params, make_batch, model_settings: dict, settings: dict
) -> None:
    model = shallow(**model_settings)
    params, rows = random_params(model), {"xray": 3, "ct": 2}
    run = loss(model, Objective(**settings))
    value, (metrics, stats) = run(params, params, fresh_stats(), make_batch(model, *rows.values()))
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    names = {f"{part}/{kind}" for part in ("xray", "ct", "loss") for kind in ("vl", "icl", "pcl")}
    of_targets = {f"{part}/{kind}_information" for part in ("xray", "ct") for kind in ("icl", "pcl")}
    assert metrics.keys() == {"loss", *names, *of_targets}
    assert all(metrics[name].value > 0 for name in of_targets), "random networks tell samples apart"
    assert all(metrics[f"{part}/icl_information"].value < np.log(count) + 1e-5 for part, count in rows.items())
    assert all(np.isfinite(mean.value) for mean in metrics.values())
    assert jax.tree.structure(stats) == jax.tree.structure(fresh_stats())


@pytest.mark.parametrize(
    ("xrays", "cts", "slices", "unused"),
    [
        (3, 0, 2, ("patch_3d", "position_3d")),
        (0, 3, 2, ()),  # the slices go through T_2D
        (0, 3, 0, ("patch_2d", "position_2d")),
        (3, 2, 2, ()),
    ],
)
def test_gradients_reach_the_modalities_at_hand(
    shallow, random_params, make_batch, xrays: int, cts: int, slices: int, unused: tuple[str, ...]
) -> None:
    model = shallow(slices=slices)
    params = random_params(model)
    grad = jax.jit(jax.value_and_grad(loss(model, Objective()), argnums=(0, 1), has_aux=True))
    (value, _), (student, teacher) = jax.device_get(grad(params, params, fresh_stats(), make_batch(model, xrays, cts)))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(student))
    assert not any(leaf.any() for leaf in jax.tree.leaves(teacher)), "teacher and scores are detached"
    for name in ("patch_2d", "position_2d", "patch_3d", "position_3d"):
        reached = any(leaf.any() for leaf in jax.tree.leaves(student["vision"][name]))
        assert reached == (name not in unused), name
    for part in ("report", "project_image", "project_report", "head_cls", "head_patch"):
        assert all(leaf.any() for leaf in jax.tree.leaves(student[part]["fc1" if "_" in part else "words"]))


def test_what_only_selects_has_an_effect_and_no_gradient(shallow, random_params, make_batch) -> None:
    model = shallow()
    params = random_params(model)
    run = loss(model, Objective(weight_icl=0.0, weight_pcl=0.0))
    batch = make_batch(model, 3, 3)
    teacher = {"vision": params["vision"]}
    other = jax.tree.map(lambda x: -np.asarray(x), teacher)
    value, again = (run(params, t, fresh_stats(), batch)[0] for t in (teacher, other))
    assert abs(value - again) > 1e-3, "another choice of tokens is another loss"
    grads = jax.device_get(jax.jit(jax.grad(run, argnums=1, has_aux=True))(params, teacher, fresh_stats(), batch)[0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("shape", [(6, 12), (6, 5, 12)])
def test_the_information_of_parts_is_that_of_the_whole(shape: tuple[int, ...]) -> None:
    """Sums of the means of three parts, none of which has all samples; of patches each is a target."""
    rng = np.random.default_rng(0)
    targets = rng.dirichlet(np.full(shape[-1], 0.1), shape[:-1]).astype(np.float32)

    def information(stats) -> float:
        return float(target_information({"icl": {"ct": stats}})["ct/icl_information"].value)

    stats = [teacher_stats(part, part) for part in map(jnp.asarray, np.split(targets, 3))]
    parts = jax.tree.map(lambda *leaves: jnp.stack(leaves).sum(axis=0), *stats)
    rows = np.float64(targets).reshape(-1, shape[-1])
    mean = rows.mean(axis=0)
    expected = np.mean([sum(p * np.log(p / q) for p, q in zip(row, mean, strict=True) if p > 0) for row in rows])
    assert information(parts) == pytest.approx(expected, abs=1e-5)
    assert information(teacher_stats(jnp.asarray(targets), jnp.asarray(targets))) == pytest.approx(expected, abs=1e-5)
    assert np.mean([information(part) for part in stats]) < expected - 0.05, "the mean of the parts' is no twin"


@pytest.mark.parametrize("by_modality", [False, True])
def test_the_loss_is_put_together_from_its_parts(tiny, networks, make_batch, by_modality: bool) -> None:
    """Sums, means and centres once more, in numpy, from what student and teacher say."""
    student, teacher, stats = networks
    objective = Objective(
        weight_vl=0.5,
        weight_icl=2.0,
        weight_pcl=3.0,
        teacher_temperature_patch=(0.05, 0.07),
        centre_by_modality=by_modality,
    )
    batch = make_batch(tiny, 3, 2)
    value, (metrics, after) = loss(tiny, objective)(student, teacher, stats, batch)

    outputs = {name: views(name, tiny, objective)(student, teacher, batch[name]["tokens"]) for name in ("xray", "ct")}

    def put(pick):
        return jnp.concatenate([pick(name) for name in ("xray", "ct")])

    def heads(params, x, name):
        return trial.bound(tiny, params, lambda network: network.head[name](x))

    @jax.jit
    def project(params, xray, ct, text, mask):
        variables = {"params": params, "batch_stats": stats["batch_stats"]}
        reports = tiny.apply(variables, text, mask, True, method="encode_text")
        cls = {"xray": xray, "ct": ct}  # in the order of the reports, which a dict loses at jit's door
        return tiny.apply(variables, cls, reports, True, method="project", mutable=["batch_stats"])

    text, mask = put(lambda n: batch[n]["text"]), put(lambda n: batch[n]["text_mask"])
    (image, text), norms = project(student, outputs["xray"].student_cls, outputs["ct"].student_cls, text, mask)
    vl = losses.contrastive(image, text, 0.07).mean(axis=0)
    icl, pcl, logits_cls, logits_patch = [], [], [], []
    for name, view in outputs.items():
        logits_cls.append(heads(teacher, view.teacher_cls, "cls"))
        logits_patch.append(heads(teacher, view.teacher_patches, "patch"))
        ours = heads(student, view.student_cls, "cls")
        icl.append(losses.self_distillation(ours, logits_cls[-1], stats["centre_cls"][name], 0.1, 0.04))
        ours = heads(student, view.student_patches, "patch")
        each = losses.self_distillation(ours, logits_patch[-1], stats["centre_patch"][name], 0.1, 0.07)
        pcl.append(each.mean(axis=1))
    for kind, logits, temperature in (("icl", logits_cls, 0.04), ("pcl", logits_patch, 0.07)):
        for name, rows in zip(outputs, logits, strict=True):
            shares = (np.float64(rows) - np.float64(stats[CENTRES[kind]][name])) / temperature
            shares = np.exp(shares - shares.max(axis=-1, keepdims=True)).reshape(-1, shares.shape[-1])
            shares /= shares.sum(axis=-1, keepdims=True)
            divergence = (shares * np.log(np.maximum(shares, 1e-300) / shares.mean(axis=0))).sum(axis=-1).mean()
            assert float(metrics[f"{name}/{kind}_information"].value) == pytest.approx(divergence, abs=1e-3)
    expected = {"vl": vl, "icl": np.concatenate(icl), "pcl": np.concatenate(pcl)}
    for kind, per_sample in expected.items():
        for name, rows in (("xray", slice(0, 3)), ("ct", slice(3, 5)), ("loss", slice(0, 5))):
            mean = metrics[f"{name}/{kind}"]
            assert float(mean.value) == pytest.approx(float(per_sample[rows].mean()), rel=1e-3)
            assert float(mean.weight) == len(per_sample[rows])
    total = sum(w * expected[k].mean() for k, w in (("vl", 0.5), ("icl", 2.0), ("pcl", 3.0)))
    assert float(value) == pytest.approx(float(total), rel=1e-3)
    assert float(metrics["loss"].value) == float(value)
    per_sample = [np.asarray(x).mean(axis=1) for x in logits_patch]
    for kind, logits in (("centre_cls", logits_cls), ("centre_patch", per_sample)):
        for i, name in enumerate(outputs):
            among = [logits[i]] if by_modality else logits
            centre = 0.9 * stats[kind][name] + 0.1 * np.concatenate(among).mean(axis=0)
            np.testing.assert_allclose(after[kind][name], centre, atol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (after["batch_stats"], norms["batch_stats"])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_loss_without_weight_is_left_out(shallow, random_params, make_batch) -> None:
    model = shallow()
    params = random_params(model)
    value, (metrics, after) = loss(model, Objective(weight_icl=0.0, weight_pcl=0.0))(
        params, params, fresh_stats(), make_batch(model, 3, 0)
    )
    assert metrics.keys() == {"loss", "loss/vl", "xray/vl"}
    assert float(value) == pytest.approx(
        float(metrics["loss/vl"].value), rel=1e-6
    )  # Another compiler fuses the mean otherwise
    jax.tree.map(np.testing.assert_array_equal, after["centre_cls"], fresh_stats()["centre_cls"])


def test_random_draws_do_not_depend_on_the_other_modality(shallow, random_params, make_batch) -> None:
    model = shallow()
    params = random_params(model)
    run = loss(model, Objective(mask_by="random", slices_by="random"))
    mixed = make_batch(model, 3, 3)
    both = run(params, params, fresh_stats(), mixed)[1][0]
    alone = run(params, params, fresh_stats(), {"ct": mixed["ct"]})[1][0]
    for name in ("ct/icl", "ct/pcl"):
        assert float(alone[name].value) == pytest.approx(float(both[name].value), rel=1e-5)


def test_choices_are_random_until_a_step(shallow, random_params, make_batch) -> None:
    model = shallow()
    params, tokens = random_params(model), make_batch(model, 0, 3)["ct"]["tokens"]

    def student(**settings):
        run = views("ct", model, Objective(**settings))
        return lambda step: np.asarray(run(params, params, tokens, step).student_cls)

    blind, attentive = student(mask_by="random", slices_by="random")(0), student()(0)
    assert np.abs(blind - attentive).max() > 1e-3
    both = student(random_until_step=2)
    for step, expected in ((0, blind), (1, blind), (2, attentive)):
        np.testing.assert_allclose(both(step), expected, atol=1e-4)


def test_identical_reports_may_be_positives(shallow, random_params, make_batch) -> None:
    # Dropout: equal embeddings of equal reports would make the two targets cost the same on average.
    model = shallow(report_dropout=0.5)
    params = random_params(model)
    batch = make_batch(model, 4, 0)
    copied = jax.tree.map(lambda x: x, batch)
    for name in ("text", "text_mask"):
        copied["xray"][name] = batch["xray"][name].at[2].set(batch["xray"][name][0])
    only = dict(weight_icl=0.0, weight_pcl=0.0)
    plain, treated = (loss(model, Objective(identical_reports=option, **only)) for option in (False, True))
    values = {
        (run, kind): float(function(params, params, fresh_stats(), pairs)[0])
        for run, function in (("plain", plain), ("treated", treated))
        for kind, pairs in (("different", batch), ("copied", copied))
    }
    # Through patches, a layer, the projection's norms over the batch, and the similarities' division by 0.07.
    near = float32(64, depth=LAYER_SUMS + 6, scale=1 / 0.07)
    assert values["plain", "different"] == pytest.approx(values["treated", "different"], abs=near)
    assert abs(values["plain", "copied"] - values["treated", "copied"]) > 1e-3


@pytest.mark.parametrize(("warmup", "step", "patch"), [(0, 0, 0.07), (10, 0, 0.04), (10, 5, 0.055), (10, 30, 0.07)])
def test_the_teachers_temperature_warms_up(warmup: int, step: int, patch: float) -> None:
    temperatures = Objective(temperature_warmup_steps=warmup).temperatures(jnp.int32(step))
    assert [float(temperatures[name]) for name in ("icl", "pcl")] == pytest.approx([0.04, patch], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_mode": "x"},
        {"mask_by": "x"},
        {"mask_scope": "x"},
        {"slices_by": "x"},
        {"mask_ratio": 1.0},
        {"mask_ratio": -0.1},
    ],
)
def test_settings_that_do_not_exist_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)


def test_mask_tokens_that_hide_nothing_are_refused(make_tiny) -> None:
    """At a ratio of 0, and at one too small for a single token; nothing is compiled for it."""
    for ratio in (0.0, 1e-4):
        with pytest.raises(ValueError, match="mask_ratio"):
            make_tiny(objective=Objective(mask_mode="mask_token", mask_ratio=ratio))
    make_tiny(objective=Objective(mask_mode="drop", mask_ratio=0.0))
