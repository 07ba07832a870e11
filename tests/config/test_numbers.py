"""Numbers that mean nothing as settings are refused, and every default is allowed."""

import dataclasses

import pytest

from configs import build, pretrain
from data.errors import UserError
from unimedi_jax.config import building, jobs, numbers, objectives, pretraining, public_sets, recipes, reference
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed


def test_every_bound_is_one_of_a_field() -> None:
    for key in (*numbers.LEAST, *numbers.MOST):
        name, _, field = key.partition(".")
        owners = [
            vars(module)[name]
            for module in (jobs, recipes, objectives, pretraining, building, public_sets)
            if name in vars(module)
        ]
        assert owners, key
        assert all(field in {one.name for one in dataclasses.fields(owner)} for owner in owners), key


def test_every_default_and_every_preset_is_allowed() -> None:
    sources = [building.build_config(kind) for kind in building.SOURCES]
    for settings in (*(cls() for cls in reference.JOBS.values()), *sources):
        numbers.check_all(dataclasses.asdict(settings), settings)
    for settings in (cls() for cls in objectives.OBJECTIVES.values()):
        numbers.check_all(dataclasses.asdict(settings), settings)
    for name in pretrain.PRESETS:
        for words in filter(None, (name, f"demo,{name}")):
            typed(PretrainConfig, pretrain.get_config(words))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, "config.seed=-1: at least 0 is allowed"),
        ({"seed": 2**40}, "config.seed=1099511627776: at least 0 and at most 2147483647 is allowed"),
        ({"batch": {"ct": -1}}, "config.batch.ct=-1: at least 0 is allowed"),
        ({"mesh": {"fsdp": 0}}, "config.mesh.fsdp=0: at least 1 is allowed"),
        ({"optim": {"clip_norm": float("inf")}}, "config.optim.clip_norm=inf: at least 0 is allowed"),
        ({"model": {"window_hu": (-1000.0, float("nan"))}}, "config.model.window_hu=(-1000.0, nan): a finite number"),
        ({"input": {"max_damaged": 2.0}}, "config.input.max_damaged=2.0: at least 0 and at most 1 is allowed"),
        ({"input": {"ct_shift": (0, -1, 0)}}, "config.input.ct_shift=(0, -1, 0): at least 0 is allowed"),
        ({"objective": {"temperature": -1.0}}, "config.objective.temperature=-1.0: at least 0 is allowed"),
    ],
)
def test_one_line_names_the_setting_its_value_and_what_is_allowed(change, words) -> None:
    config = pretrain.get_config()
    config.update(change)
    with pytest.raises(UserError) as error:
        typed(PretrainConfig, config)
    assert str(error.value).startswith(words)


def test_what_may_be_below_zero_is_taken() -> None:
    config = pretrain.get_config("siglip")
    config.objective.bias, config.input.processes, config.mesh.data = -20.0, -1, -1
    assert typed(PretrainConfig, config).objective.bias == -20.0
    config = build.get_config("phantom")
    config.cts = -1
    with pytest.raises(UserError, match=r"config.cts=-1: at least 0"):
        numbers.check_all(config.to_dict(), reference.defaults(config.to_dict()))


def test_shares_and_seeds_are_one_or_more() -> None:
    for name in ("shares", "seeds"):
        with pytest.raises(UserError, match=f"config.{name} is empty"):
            typed(jobs.ProbeConfig, {name: ()})
    with pytest.raises(UserError, match=r"config.shares=\(0.5, 0.0\): above 0 and at most 1"):
        typed(jobs.ProbeConfig, {"shares": (0.5, 0.0)})
