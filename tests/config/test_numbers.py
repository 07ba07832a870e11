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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"window_hu": (200.0, -1000.0)}}, "config.model: window_hu=(200.0, -1000.0) is no range"),
        ({"model": {"window_hu": (200.0, 200.0)}}, "config.model: window_hu=(200.0, 200.0) is no range"),
        ({"model": {"volume_patch": (4, 16)}}, "config.model: volume_patch is three numbers (z, y, x), not (4, 16)"),
        ({"model": {"volume_size": (128, 128)}}, "config.model: volume_size is three numbers"),
        ({"model": {"image_patch": (16, 16, 16)}}, "config.model: image_patch is two numbers (y, x)"),
        ({"model": {"slice_source": (128,)}}, "config.model: slice_source is two numbers"),
        ({"model": {"dtype": "bf16"}}, "config.model: dtype must be one of bfloat16, float16, float32, not 'bf16'"),
        ({"model": {"projection": "none"}}, "config.model: projection must be one of mlp, linear"),
        ({"evals": {"network": "teachr"}}, "config.evals: network must be one of student, teacher, not 'teachr'"),
        ({"optim": {"decay": "*"}}, "config.optim: decay: '*' is no regular expression (nothing to repeat"),
        ({"optim": {"b2": 1.0}}, "config.optim: b2 must be at least 0 and below 1, not 1.0"),
        ({"sharding": (("*", "fsdp"),)}, "config.sharding: '*' is no regular expression (nothing to repeat"),
        ({"sharding": ((".*", "split"),)}, "config.sharding: ('.*', 'split') is no pair"),
        ({"sharding": (".*", "fsdp")}, "config.sharding: '.*' is no pair"),
        ({"distributed": {"coordinator": "a:1", "process": 2, "processes": 2}}, "config.distributed: process=2, but"),
        ({"objective": {"mask_block": 0}}, "config.objective: mask_block must be at least 1, not 0"),
        ({"objective": {"centre_momentum": 2.0}}, "config.objective: centre_momentum must be at least 0 and below 1"),
        ({"objective": {"teacher_temperature_cls": (0.04,)}}, "config.objective: teacher_temperature_cls is two num"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_built(change, words) -> None:
    config = pretrain.get_config()
    config.update({name: value for name, value in change.items() if name != "sharding"})
    with pytest.raises(UserError) as error:
        typed(PretrainConfig, config.to_dict() | {name: value for name, value in change.items() if name == "sharding"})
    assert str(error.value).startswith(words)


DIVISORS = ("temperature", "attention_heads", "decoder_heads", "epsilon")  # and what softmaxes are divided by
MOMENTA = ("centre_momentum",)


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_no_objective_divides_by_zero_or_drifts_away(name: str) -> None:
    cls = objectives.OBJECTIVES[name]
    for field in dataclasses.fields(cls):
        usual = getattr(cls(), field.name)
        if any(word in field.name for word in DIVISORS) and not isinstance(usual, bool) and "steps" not in field.name:
            zero = (0.0, 0.1) if isinstance(usual, tuple) else 0
            with pytest.raises(ValueError, match=f"{field.name} must be"):
                cls(**{field.name: zero})
        if field.name in MOMENTA:
            with pytest.raises(ValueError, match=f"{field.name} must be at least 0 and below 1"):
                cls(**{field.name: 1.0})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: recipes.CropsConfig(window_hu=(250.0, -175.0)), "is no range"),
        (lambda: recipes.CropsConfig(overlap=1.0), "overlap must be at least 0 and below 1"),
        (lambda: recipes.CropsConfig(layer_decay=0.0), "layer_decay must be above 0"),
        (lambda: recipes.VolumesConfig(layer_decay=2.0), "layer_decay must be above 0 and at most 1"),
        (lambda: recipes.VolumesConfig(share=0.0), "share must be above 0"),
        (lambda: jobs.DetectConfig(widths=(8, 8)), "widths is three numbers"),
        (lambda: jobs.CandidatesTask(crop=(32, 64)), "crop is three numbers"),
        (lambda: jobs.EvaluateConfig(segment=jobs.SegmentTask(tune="half")), "config.segment.tune is frozen, full"),
        (lambda: jobs.EvaluateConfig(detect=jobs.DetectTask(tune="")), "config.detect.tune is frozen, full"),
    ],
)
def test_nor_do_recipes_and_jobs_take_it(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
