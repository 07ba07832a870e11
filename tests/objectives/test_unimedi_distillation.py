"""What gives UniMedI's self-distillation something to learn: views, ramps, balanced targets, spread, by numpy."""

import dataclasses

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from data.errors import UserError
from tests.objectives import trial
from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import trees
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.objectives import base, distillation
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import gradcache, step

OBJECTIVE = Objective()
PLAIN = {"crop_scale": (1.0, 1.0), "crop_aspect": 1.0, "brightness": 0.0, "contrast": 0.0, "noise": 0.0}
NEAR = float32(64, depth=LAYER_SUMS + 6, scale=1 / 0.04)


@pytest.mark.parametrize("shape", [(6, 12), (4, 5, 12)])
def test_balanced_targets_equal_numpy(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    actual = distillation.balanced(jnp.asarray(logits), jnp.float32(0.07), 3)
    expected = trial.sinkhorn(logits.reshape(-1, 12), 0.07, 3).reshape(shape)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_balanced_targets_are_distilled_within_a_modality(model, networks, make_batch) -> None:
    """Loss and information from the logits of both networks once more, in numpy; the centres stay."""
    objective, batch = Objective(centring="sinkhorn", weight_koleo=0.1), make_batch(model, 4, 3)

    def forward(student):
        teacher = base.bind_teacher(model, networks.teacher)
        targets = objective.teacher_forward(teacher, batch, student.make_rng("draws"), jnp.int32(0))
        outputs, reports = objective.student_forward(student, batch, targets)
        state = {name: networks.model_state[name] for name in distillation.CENTRES.values()}
        terms, stats = objective.distillation_losses(student, teacher, outputs, targets, state, jnp.int32(0))
        logits = {
            (loss, name): (
                student.head[head](getattr(outputs[name], field)),
                teacher.head[head](getattr(targets[name], field)),
            )
            for loss, head, field in (("icl", "cls", "cls"), ("pcl", "patch", "patches"))
            for name in batch
        }
        cls = {name: output.cls for name, output in outputs.items()}
        whole = objective.batch_losses(student, batch, outputs, reports)
        return terms, logits, distillation.target_information(stats), cls, whole, objective.update_centres(state, stats)

    terms, logits, information, cls, whole, centres = trial.bound(
        model, networks.params, forward, networks.model_state["batch_stats"]
    )
    for (loss, name), (ours, theirs) in logits.items():
        count, temperature = ours.shape[-1], {"icl": 0.04, "pcl": 0.07}[loss]
        targets = trial.sinkhorn(np.asarray(theirs).reshape(-1, count), temperature, 3)
        shares = np.exp(np.float64(ours).reshape(-1, count) / 0.1)
        shares /= shares.sum(axis=1, keepdims=True)
        each = -(targets * np.log(shares)).sum(axis=1).reshape(len(ours), -1).mean(axis=1)
        np.testing.assert_allclose(terms[loss][name], each, atol=NEAR)
        mean = targets.mean(axis=0)
        carried = (targets * np.log(np.maximum(targets, 1e-300) / mean)).sum(axis=1).mean()
        assert float(information[f"{name}/{loss}_information"].value) == pytest.approx(carried, abs=1e-4)
    for name, rows in cls.items():
        unit = np.float64(rows) / np.linalg.norm(np.float64(rows), axis=1, keepdims=True)
        nearest = [min(np.linalg.norm(a - b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
        np.testing.assert_allclose(whole["koleo"][name], -np.log(nearest), atol=1e-3)
    for kind, by_modality in centres.items():
        for name, centre in by_modality.items():
            np.testing.assert_array_equal(centre, networks.model_state[kind][name])


def test_all_switches_together_give_gradients(model, random_tree, make_batch) -> None:
    settings = {"centring": "sinkhorn", "weight_koleo": 0.1, "negatives": "modality", "two_views": True}
    objective = Objective(**settings, head_norm=True, mask_mode="mask_token")
    with_norms = model.clone(head=objective.heads(model))
    start = trial.networks(with_norms, objective, random_tree)
    value, metrics, _, grads = trial.gradients(with_norms, objective, start, make_batch(model, 4, 3))
    assert {"loss/vl", "loss/icl", "loss/pcl", "loss/koleo", "xray/koleo", "ct/koleo"} <= metrics.keys()
    weighted = sum(objective.weight(name, 0) * metrics[f"loss/{name}"].value for name in ("vl", "icl", "pcl", "koleo"))
    assert float(value) == pytest.approx(float(weighted), rel=1e-5)
    assert {"head_cls", "head_patch", "report", "vision/patch_2d", "vision/patch_3d"} <= trial.reached(grads)
    assert all(leaf.any() for leaf in jax.tree.leaves(grads["head_cls"]["norm1"]))


@pytest.mark.parametrize("settings", [{}, {"mask_mode": "mask_token", "mask_scope": "part"}])
def test_a_view_of_everything_is_the_sample(model, networks, make_batch, settings: dict) -> None:
    batch = make_batch(model, 3, 2)
    one, two = (
        jax.jit(trial.loss(model, objective))(*networks, batch)[1][0]
        for objective in (Objective(**settings), Objective(**settings, two_views=True, **PLAIN))
    )
    for name, mean in one.items():
        assert float(two[name].value) == pytest.approx(float(mean.value), abs=NEAR, rel=1e-4), name


def test_a_view_changes_what_the_student_sees_and_not_the_teacher(model, networks, make_batch) -> None:
    batch, objective = make_batch(model, 3, 2), Objective(two_views=True)

    def teacher_forward(key):
        return objective.teacher_forward(base.bind_teacher(model, networks.teacher), batch, key, jnp.int32(0))

    first, second = (jax.jit(teacher_forward)(jax.random.key(seed)) for seed in (0, 1))
    for name, output in first.items():
        assert output.view.dtype == batch[name]["tokens"].dtype
        assert (output.view != batch[name]["tokens"]).any(axis=(1, 2)).all()
        assert (output.view != second[name].view).any(axis=(1, 2)).all()
        np.testing.assert_allclose(output.cls, second[name].cls, atol=1e-5)
        assert output.patches.shape == second[name].patches.shape
        assert not np.allclose(output.patches, second[name].patches, atol=1e-3), "they lie on another view's tokens"


@pytest.mark.parametrize(
    ("settings", "ratios"),
    [
        ({}, [0.0, 0.25, 0.5]),
        ({"mask_mode": "mask_token"}, [0.5 / 3, 1 / 3, 0.5]),
        ({"mask_ratio": 0.0}, [0.0]),
        ({"mask_ramp_steps": 0}, [0.5]),
    ],
)
def test_the_masked_share_grows_in_stages(settings: dict, ratios: list[float]) -> None:
    objective = Objective(**{"mask_ramp_steps": 100, "mask_stages": 3} | settings)
    assert [stage.mask_ratio for stage in objective.stages()] == pytest.approx(ratios)
    last, whole = (dataclasses.asdict(one) | {"mask_ramp_steps": 0} for one in (objective.stages()[-1], objective))
    assert last == whole, "the end is what the settings say"
    begins = [0, 49, 50, 99, 100, 10**6]
    numbers = [int(objective.stage(jnp.int32(step))) for step in begins]
    assert numbers == ([0, 0, 1, 1, 2, 2] if len(ratios) == 3 else [0] * 6)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_runs_the_stage_that_it_belongs_to(model, networks, make_batch, parts: int) -> None:
    """Loss and gradients are those of the stage alone."""
    objective, batch = Objective(mask_ramp_steps=10, mask_stages=2), make_batch(model, 4, 2)

    def run(function):
        return jax.jit(lambda number: function(*networks, batch, jax.random.key(3), number))

    switched = run(step.by_stage(model, objective, parts))
    values = []
    for number, ratio in ((9, 0.0), (10, 0.5)):
        alone = Objective(mask_ratio=ratio)
        if parts > 1:
            function = gradcache.value_and_grad(model, alone, parts)
        else:
            function = jax.value_and_grad(base.loss_function(model, alone), has_aux=True)
        ours, expected = switched(number), run(function)(number)
        values.append(float(ours[0][0]))
        for name, got, leaf in zip(trees.names(ours), *map(jax.tree.leaves, (ours, expected)), strict=True):
            np.testing.assert_allclose(got, leaf, atol=1e-5, rtol=1e-4, err_msg=name)
    assert abs(values[0] - values[1]) > 1e-3


def test_mask_tokens_hide_some_from_the_first_stage_on(make_tiny) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio=0\.0.* hides none of 16 tokens"):
        make_tiny(objective=Objective(mask_mode="mask_token", mask_ratio=0.1, mask_ramp_steps=5, mask_stages=8))


@pytest.mark.parametrize(("ramp", "step", "share"), [(0, 0, 1.0), (10, 0, 0.0), (10, 5, 0.5), (10, 30, 1.0)])
def test_weights_of_distillation_grow(ramp: int, step: int, share: float) -> None:
    objective = Objective(weight_icl=2.0, weight_pcl=3.0, weight_koleo=0.1, distillation_ramp_steps=ramp)
    weights = [float(objective.weight(name, jnp.int32(step))) for name in ("vl", "icl", "pcl", "koleo")]
    assert weights == pytest.approx([1.0, 2.0 * share, 3.0 * share, 0.1])


@pytest.mark.parametrize(
    ("settings", "named"), [({"centring": "sinkhorn"}, "centring=sinkhorn"), ({"head_norm": True}, "head_norm=True")]
)
def test_what_needs_the_whole_batch_does_not_come_in_parts(settings: dict, named: str) -> None:
    config = {"accumulate": 2, "batch": {"xray": 4, "ct": 4}, "objective": settings}
    with pytest.raises(UserError, match=f"config.objective.{named} needs all of it"):
        typed(PretrainConfig, config)
    undistilled = {"weight_icl": 0.0, "weight_pcl": 0.0}
    typed(PretrainConfig, config | {"objective": settings | undistilled})
    typed(PretrainConfig, config | {"accumulate": 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives": "x"},
        {"centring": "x"},
        {"sinkhorn_iterations": 0},
        {"weight_koleo": -0.1},
        {"mask_ramp_steps": -1},
        {"mask_stages": 1},
        {"distillation_ramp_steps": -1},
        {"crop_scale": (0.0, 1.0)},
    ],
)
def test_settings_that_do_not_exist_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
