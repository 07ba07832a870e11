"""DINO: the loss over views against PyTorch, what it reaches, and what its centres follow."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.conftest import TINY
from tests.objectives import trial
from unimedi_jax.objectives import dino
from unimedi_jax.objectives.dino import Objective

OBJECTIVE, MODEL = Objective(), dict(size=TINY)


@pytest.fixture(scope="module")
def step(model, networks, make_batch):
    """One mixed batch: the loss, metrics, new state and gradient."""
    return trial.gradients(model, Objective(), networks, make_batch(model, 3, 2))


def test_the_loss_over_views_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((5, 4, 7), np.float32), rng.standard_normal((5, 2, 7), np.float32)
    centre = rng.standard_normal(7).astype(np.float32)
    theirs = torch.tensor(student, requires_grad=True)
    log_shares = [torch.log_softmax(view / 0.1, dim=-1) for view in theirs.unbind(dim=1)]
    targets = [
        torch.softmax((torch.tensor(view) - torch.tensor(centre)) / 0.05, dim=-1) for view in teacher.swapaxes(0, 1)
    ]
    terms = [
        -(target * view).sum(dim=-1) for i, target in enumerate(targets) for j, view in enumerate(log_shares) if i != j
    ]
    assert len(terms) == 6
    expected = sum(terms) / 6
    expected.sum().backward()

    def ours(student, teacher):
        each = dino.across_views(student, teacher, jnp.asarray(centre), 0.1, 0.05)
        return each.sum(), each

    grads, each = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(student, teacher)
    np.testing.assert_allclose(each, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(grads[0], theirs.grad.numpy(), atol=1e-4)
    assert not grads[1].any()


def test_known_values_of_the_loss() -> None:
    same = jnp.zeros((3, 4, 16))
    np.testing.assert_allclose(dino.across_views(same, same[:, :2], jnp.zeros(16), 0.1, 0.04), math.log(16), rtol=1e-5)
    sure = jnp.tile(jax.nn.one_hot(jnp.arange(3), 16)[:, None] * 10, (1, 4, 1))
    assert dino.across_views(sure, sure[:, :2], jnp.zeros(16), 0.1, 0.04).max() < 1e-5
    alike = jnp.concatenate([sure[:, :2], -sure[:, 2:]], axis=1)  # the small views disagree
    assert dino.across_views(alike, sure[:, :2], jnp.zeros(16), 0.1, 0.04).min() > 10


def test_gradients_reach_the_vision_tower_and_no_report(step) -> None:
    of_vision = {"cls", "position_cls", "patch_2d", "patch_3d", "position_2d", "position_3d", "trunk"}
    assert trial.reached(step[3]) == {"head_cls", *(f"vision/{name}" for name in of_vision)}


def test_metrics_by_modality(step, model, networks, make_batch) -> None:
    names = {"loss", "loss/dino"}
    each = {name: {f"{name}/dino", f"{name}/dino_information"} for name in ("xray", "ct")}
    assert set(step[1]) == names | each["xray"] | each["ct"]
    for name, samples in (("xray", 3), ("ct", 2)):
        assert 0 < step[1][f"{name}/dino_information"].value < np.log(2 * samples) + 1e-5  # two views of each
    alone = trial.alone(model, Objective(), networks, make_batch(model, 3, 2))
    assert alone == {name: names | own for name, own in each.items()}


def test_centres_follow_the_teacher_of_their_modality(step, model, networks, make_batch) -> None:
    batch = make_batch(model, 3, 2)

    def teacher_logits(network):
        views = {name: Objective().views(network, name, part["tokens"])[0] for name, part in batch.items()}
        return {name: dino.prototype_logits(network, large) for name, large in views.items()}

    for name, logits in trial.bound(model, networks.teacher, teacher_logits).items():
        np.testing.assert_allclose(step[2]["centre"][name], 0.1 * np.asarray(logits).mean(axis=(0, 1)), atol=1e-5)


def test_the_information_of_targets_equals_a_loop() -> None:
    """Over the views of all samples, each one's divergence from the mean target."""
    rng = np.random.default_rng(3)
    teacher, centre = rng.standard_normal((3, 2, 7)) / 10, rng.standard_normal(7) / 10
    rows = np.exp((teacher.reshape(-1, 7) - centre) / 0.05)
    rows /= rows.sum(axis=1, keepdims=True)
    expected = np.mean([sum(p * np.log(p / q) for p, q in zip(row, rows.mean(axis=0), strict=True)) for row in rows])
    objective = Objective(teacher_temperature=(0.05, 0.05))
    actual = objective.information(jnp.float32(teacher), jnp.float32(centre), jnp.int32(0))
    assert float(actual.value) == pytest.approx(expected, rel=1e-4)


def test_two_sizes_of_views_take_three_passes(model, networks, make_batch) -> None:
    batch = make_batch(model, 3, 2)
    xrays, volumes = [(6, 5), (6, 17), (6, 17)], [(4, 3), (4, 17), (4, 17)]
    assert trial.passes(model, Objective(), networks, batch) == sorted(xrays + volumes)
    assert trial.passes(model, Objective(local_crops=0), networks, {"xray": batch["xray"]}) == xrays[1:]
    assert trial.passes(model, Objective(local_crops=5), networks, {"xray": batch["xray"]}) == [
        (6, 17),
        (6, 17),
        (15, 5),
    ]


@pytest.mark.parametrize(("warmup", "step", "expected"), [(0, 0, 0.07), (10, 0, 0.04), (10, 5, 0.055), (10, 30, 0.07)])
def test_the_teachers_temperature_warms_up(warmup: int, step: int, expected: float) -> None:
    objective = Objective(teacher_temperature=(0.04, 0.07), temperature_warmup_steps=warmup)
    assert float(objective.temperature(jnp.int32(step))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"local_scale": (0.0, 0.4)}, {"local_size": 0.0}, {"local_size": 1.1}, {"local_crops": -1}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
