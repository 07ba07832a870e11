"""Every system of configs/systems.py: its settings are all written out, and its whole step takes shape."""

import dataclasses

import jax
import pytest

from configs import pretrain, systems
from data.errors import UserError
from unimedi_jax import objectives, sharding
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.models import towers
from unimedi_jax.train.job import build_train_step

EVERYWHERE = [*systems.SYSTEMS, "one_encoder", "mae,xray_only", "simmim,ct_only", "clip,xray_only", "unimiss,ct_only"]


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_all_settings_are_written_out(name: str) -> None:
    config = pretrain.get_config(name)
    goal = objectives.make(**config.objective)
    assert set(config.objective.keys()) == {field.name for field in dataclasses.fields(goal)}
    assert (config.checkpoint.keep_best > 0) == goal.has_joint_space, "the best is told by zero-shot classification"
    assert not config.evals.ct_slices
    assert goal.uses_reports or not goal.has_joint_space


def test_a_run_on_one_modality_is_ranked_by_a_metric_of_its_own() -> None:
    for word in ("xray", "ct"):
        assert pretrain.get_config(f"demo,{word}_only").checkpoint.best == f"{word}/zeroshot/macro"


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_step_takes_shape_in_the_small_run(name: str) -> None:
    config = pretrain.get_config(f"demo,{name}")
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    what = build_train_step(typed(PretrainConfig, config), 200, mesh)
    one = jax.eval_shape(lambda: what.objective.example_batch(what.model, 64))
    batch = towers.example(one, dict(config.batch), jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
    state, metrics = jax.eval_shape(what.step, what.abstract, batch)
    alike = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, what.abstract)
    assert all(jax.tree.leaves(alike))
    losses = {key.removeprefix("loss/") for key in metrics if key.startswith("loss/")}
    assert losses, "what is minimised is told"
    assert all(any(f"{modality}/{loss}" in metrics for modality in batch) for loss in losses), "some are of CTs alone"
    assert state.teacher.keys() == set(what.objective.teacher_parts(what.model))


@pytest.mark.parametrize("name", ["unimedi", "aclip"])
def test_blocks_of_tokens_that_do_not_fit_are_refused_before_a_step_is_traced(tiny, name: str) -> None:
    with pytest.raises(ValueError, match="mask_block=3 does not divide an X-ray's grid of 4 x 4"):
        objectives.make(name, mask_block=3).heads(tiny)


@pytest.mark.parametrize("name", ["one_encoder", "mae"])
def test_a_teacher_that_is_not_there_cannot_be_evaluated(name: str) -> None:
    config = pretrain.get_config(f"demo,{name}")
    config.evals.network = "teacher"
    with pytest.raises(UserError, match=r"config.evals.network=teacher: the objective (unimedi|mae) has none with"):
        build_train_step(typed(PretrainConfig, config), 200, sharding.make_mesh(devices=jax.devices()[:1]))


def test_one_system_a_run() -> None:
    for words in ("mae,clip", "demo,clip,no_slices"):
        with pytest.raises(ValueError, match="one system, with or without xray_only, ct_only, fine_tokens"):
            pretrain.get_config(words)
    config = pretrain.get_config("demo,clip")
    config.objective.nonsense = 1
    with pytest.raises(UserError, match="nonsense"):
        build_train_step(typed(PretrainConfig, config), 200, sharding.make_mesh(devices=jax.devices()[:1]))
    with pytest.raises(ValueError, match="name must be one of unimedi, contrast"):
        objectives.make("nothing")
