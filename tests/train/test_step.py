"""The step: pure, the teacher follows, frozen means frozen, and eight pairs are learnt by heart."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from unimedi_jax import optim, trainable, trees
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.pretraining import OptimConfig
from unimedi_jax.models import sizes
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import job
from unimedi_jax.train import state as states
from unimedi_jax.train import step as steps

STEPS = 50
OPTIMISER = OptimConfig(warmup_steps=5, peak_lr=3e-3, start_lr=1e-4)


def make(model, asked=rules.EVERYTHING, **settings):
    """State before the first step and the jitted step; what trains is as `asked`."""
    tx, schedule = optim.make(OPTIMISER, STEPS)
    params = jax.eval_shape(lambda: states.init_variables(model, jax.random.key(0), Objective())[0]["params"])
    partition = trainable.partition(asked, params) if asked != rules.EVERYTHING else trainable.EVERYTHING
    step = steps.make_train_step(
        model,
        tx,
        objective=Objective(),
        schedule=schedule,
        ema=optim.ema_schedule(base=0.9, final=1.0, steps=STEPS),
        partition=partition,
        **settings,
    )
    return jax.jit(states.make_init(model, tx, Objective(), partition))(jax.random.key(0)), jax.jit(step)


@pytest.fixture(scope="module")
def start(tiny, make_batch):
    """(state before the first step, step, batch)."""
    return *make(tiny), make_batch(tiny, 4, 4)


@pytest.fixture(scope="module")
def run(start):
    """(state after two steps, step, batch): student and teacher already differ."""
    state, step, batch = start
    for _ in range(2):
        state, _ = step(state, batch)
    return state, step, batch


def unmoved(a, b) -> set[str]:
    """Names of the leaves that are the same to the bit."""

    def bits(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = zip(trees.names(a), *map(jax.tree.leaves, (a, b)), strict=True)
    return {name for name, x, y in leaves if np.array_equal(bits(x), bits(y))}


def same(a, b) -> bool:
    return unmoved(a, b) == set(trees.names(a))


def test_the_state_begins_with_teacher_equal_to_student(start) -> None:
    state = start[0]
    assert state.teacher.keys() == {"vision", "head_cls", "head_patch"}
    assert same(state.teacher, {part: state.params[part] for part in state.teacher})
    assert state.step == 0
    for kind in ("centre_cls", "centre_patch"):
        assert not any(centre.any() for centre in state.model_state[kind].values())


def test_the_step_is_pure(run) -> None:
    state, step, batch = run
    before = jax.tree.map(jnp.copy, state)
    (first, metrics), (second, metrics_again) = step(state, batch), step(state, batch)
    assert same(first, second)
    assert same(metrics, metrics_again)
    assert same(state, before)
    assert first.step == state.step + 1
    assert same(first.key, state.key)


def test_the_teacher_follows_every_leaf_of_the_student(run) -> None:
    state, step, batch = run
    after, metrics = step(state, batch)
    momentum = 1.0 - 0.1 * 0.5 * (1 + np.cos(np.pi * 2 / STEPS))
    assert float(metrics["ema"].value) == pytest.approx(momentum, rel=1e-5)
    student = {part: after.params[part] for part in after.teacher}
    expected = jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, state.teacher, student)
    for name, average, target in zip(
        trees.names(expected), *map(jax.tree.leaves, (after.teacher, expected)), strict=True
    ):
        np.testing.assert_allclose(average, target, atol=1e-6, err_msg=name)
    assert unmoved(after.teacher, state.teacher) <= {"vision/mask_token"}, (
        "all but what this objective does not use moves"
    )


def test_the_optimiser_knows_no_teacher(run) -> None:
    state = run[0]
    sizes_of = sorted(leaf.shape for leaf in jax.tree.leaves(state.params))
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * sizes_of)
    assert not any("teacher" in name for name in trees.names(state.opt_state))


def test_metrics_of_a_step(run) -> None:
    state, step, batch = run
    after, metrics = step(state, batch)
    _, schedule = optim.make(OPTIMISER, STEPS)
    assert float(metrics["lr"].value) == pytest.approx(float(schedule(state.step)))
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(after.params)))
    assert float(metrics["norm/params"].value) == pytest.approx(norm, rel=1e-4)
    assert float(metrics["norm/grads"].value) > 0
    assert float(metrics["xray/vl"].weight) == float(metrics["ct/vl"].weight) == 4


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(run) -> None:
    state, step, batch = run
    tokens = batch["ct"]["tokens"].astype(jnp.float32).at[0, 0, 0].set(jnp.nan)
    broken = batch | {"ct": batch["ct"] | {"tokens": tokens}}
    after, metrics = step(state, broken)
    moved = set(trees.names(state)) - unmoved(state, after)
    assert moved == {"step", "skipped", "skipped_in_a_row"}
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (int(state.step) + 1, 1, 1)
    assert float(metrics["skipped/in_a_row"].value) == 1
    again, _ = step(after, broken)
    assert (int(again.skipped), int(again.skipped_in_a_row)) == (2, 2)
    good, metrics = step(again, batch)
    assert (int(good.skipped), int(good.skipped_in_a_row)) == (2, 0)
    assert np.isfinite(float(metrics["loss"].value))
    # Two were skipped, and the optimiser counts the steps it took.
    _, schedule = optim.make(OPTIMISER, STEPS)
    assert float(metrics["lr"].value) == pytest.approx(float(schedule(state.step)))
    assert not same(good.params, state.params)


def test_a_learning_rate_that_is_not_finite_is_not_used(make_tiny, make_batch, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.OPTIMISER", dataclasses.replace(OPTIMISER, start_lr=float("nan")))
    model = make_tiny(size=sizes.Size(32, 1, 4, 64))
    state, step = make(model)
    after, metrics = step(state, make_batch(model, 2, 2))
    assert set(trees.names(state)) - unmoved(state, after) == {"step", "skipped", "skipped_in_a_row"}
    assert np.isnan(float(metrics["lr"].value))


def test_eight_pairs_are_learnt_by_heart(start) -> None:
    state, step, batch = start
    history = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss/vl"].value))
    assert np.isfinite(history).all()
    assert history[0] > 1.5, "eight candidates: near log 8 at the start"
    assert np.mean(history[-5:]) < 0.5 * history[0]


def test_frozen_parameters_do_not_move_at_all(make_tiny, make_batch) -> None:
    model = make_tiny(size=sizes.Size(32, 1, 4, 64))
    state, step = make(model, (job.TOKENIZERS_STAY, *rules.EVERYTHING), freeze_last_layer_steps=2)
    batch, still = make_batch(model, 2, 0), []
    for _ in range(3):
        before, (state, _) = state, step(state, batch)
        still.append(unmoved(before.params, state.params))
    tokenizers = {f"vision/patch_{rank}d/{part}" for rank in (2, 3) for part in ("kernel", "bias")}
    prototypes = {"head_cls/last_layer", "head_patch/last_layer"}
    unused = {"vision/mask_token", "vision/position_3d"}  # nor decayed; patch_3d/kernel would be
    assert still == [tokenizers | prototypes | unused] * 2 + [tokenizers | unused]


def test_the_frozen_tokenizer_stays_with_its_sub_patches(make_tiny, make_batch) -> None:
    model = make_tiny(size=sizes.Size(32, 1, 4, 64), tokenizer="nonlinear", subpatch_hidden=4)
    state, step = make(model, (job.TOKENIZERS_STAY, *rules.EVERYTHING))
    after, _ = step(state, make_batch(model, 2, 2))
    names = {name for name in trees.names(state.params) if "patch_" in name}
    assert len(names) == 2 * (2 + 5)
    assert names <= unmoved(state.params, after.params)


def test_variables_for_inference(run) -> None:
    state = run[0]
    student, teacher = (states.variables(state, name) for name in ("student", "teacher"))
    assert student["params"] is state.params
    assert teacher["params"]["vision"] is state.teacher["vision"]
    assert teacher["params"]["report"] is state.params["report"]
    assert teacher["params"].keys() == state.params.keys()
    assert teacher["batch_stats"] is student["batch_stats"] is state.model_state["batch_stats"]
    with pytest.raises(ValueError, match="student or teacher"):
        states.variables(state, "tutor")
    with pytest.raises(ValueError, match="no teacher"):
        states.variables(dataclasses.replace(state, teacher={}), "teacher")


def test_scores_make_no_second_attention_array(tiny, random_params) -> None:
    """Eq. 1 needs one row of the attention: asking for it adds no array with n x n entries to the program."""
    params = random_params(tiny)["vision"]
    tokens = jnp.zeros((2, 36, 32))
    n = 37  # tokens and CLS, a length that no other dimension has

    def arrays(scores: bool) -> int:
        def teacher(params, x):
            return tiny.vision.apply({"params": params}, x, scores, method="encode")

        program = jax.jit(teacher).lower(params, tokens).compile().as_text()
        return len(re.findall(rf"= \w+\[(?:\d+,)*{n},{n}(?:,\d+)*\]", program))

    assert 0 < arrays(True) <= arrays(False)
