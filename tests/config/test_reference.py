"""Settings stand once, each with its meaning; a wrong key is answered with the right one."""

import ast
import dataclasses
import importlib
import json
import pathlib

import pytest
from absl import flags
from ml_collections import config_flags

from configs import build, pretrain
from data.errors import UserError
from unimedi_jax.config import building, objectives, reference
from unimedi_jax.config.pretraining import OptimConfig, PretrainConfig
from unimedi_jax.config.typed import typed

ROOT = pathlib.Path(__file__).parents[2]
OTHERS = [job for job in reference.JOBS if job != "build"]


def test_the_page_of_all_settings_is_up_to_date():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "python -m unimedi_jax.config > docs/configuration.md"


@pytest.mark.parametrize("job", OTHERS)
def test_a_config_file_has_the_settings_of_its_dataclass(job):
    config = importlib.import_module(f"configs.{job}").get_config()
    settings = typed(reference.JOBS[job], config)
    assert dataclasses.asdict(settings) == config.to_dict()
    assert typed(type(settings), json.loads(config.to_json())) == settings, "as config.json brings it back"


@pytest.mark.parametrize("preset", [*pretrain.PRESETS, "demo,mae,ct_only"])
def test_so_has_every_preset(preset):
    config = pretrain.get_config(preset)
    assert dataclasses.asdict(typed(PretrainConfig, config)) == config.to_dict()


def test_shares_follow_the_steps_until_they_are_set():
    config = pretrain.get_config()
    defaults = PretrainConfig()
    assert config.optim.warmup_steps == defaults.optim.warmup_steps == 45_200
    config.steps = 1000
    assert (config.optim.warmup_steps, config.freeze_last_layer_steps) == (400, 20)
    assert config.objective.temperature_warmup_steps == 600
    config.optim.warmup_steps = 7
    config.steps = 2000
    assert (config.optim.warmup_steps, config.freeze_last_layer_steps) == (7, 40)


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match=r"config\.optim has no setting 'lr': its settings are peak_lr, "):
        typed(PretrainConfig, {"optim": {"lr": 1.0}})
    with pytest.raises(UserError, match=r"config\.objective\.name must be one of unimedi, contrast.* not 'nothing'"):
        typed(PretrainConfig, {"objective": {"name": "nothing"}})
    with pytest.raises(UserError, match=r"config\.objective: mask_ratio must be at least 0"):
        typed(PretrainConfig, {"objective": {"mask_ratio": 2.0}})
    with pytest.raises(UserError, match=r"config\.model: layers must be one of auto"):
        typed(PretrainConfig, {"model": {"layers": "nothing"}})


@dataclasses.dataclass(frozen=True)
class Base:
    """Two fields."""

    one: int = 1  # the first
    text: str = "# no comment"


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """Two more."""

    # What stands above,
    # on two lines.
    two: tuple[int, ...] = (1, 2)

    # apart, this belongs to none

    bare: int = 0
    one: int = 3


def test_comments_are_those_beside_or_above_a_field():
    assert reference.comments(Derived) == {
        "one": "the first",
        "text": "",
        "two": "What stands above, on two lines.",
        "bare": "",
    }


def test_all_lines_of_a_help_page_carry_the_current_value():
    config = pretrain.get_config("demo")
    config.steps = 9
    text = reference.text(config.to_dict())
    assert "\n  steps = 9 " in text
    assert "optim: AdamW and the schedule of its learning rate" in text
    assert "# z, y, x" in text
    for one in reference.settings(config.to_dict()):
        assert one.key in text


def test_options_of_a_set_have_their_meaning():
    notes = {one.key: one.comment for one in reference.settings(build.get_config("chexpert").to_dict())}
    assert notes["options.each"] == "X-rays of each task of 5x200"
    assert notes["options"] == "CheXpert."


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.lr", ["optim.peak_lr", "optim.start_lr", "optim.end_lr"]),
        ("batch_size", ["batch.xray", "batch.ct", "batch.total"]),
        ("model.slces", ["model.slices", "model.scores"]),
        ("mask_ratio", ["objective.mask_ratio"]),
        ("stpes", ["steps"]),
        ("nothing.like_it", []),
    ],
)
def test_the_nearest_settings_of_a_wrong_one(key, nearest):
    known = [one.key for one in reference.settings(pretrain.get_config().to_dict()) if not one.section]
    assert reference.nearest(key, known) == nearest


def test_a_key_below_a_value_and_a_renamed_one_are_explained(monkeypatch):
    config = pretrain.get_config("demo").to_dict()
    assert reference.explain("optim.peak_lr", config) == ""
    assert reference.explain("optim", config) == ""
    expected = "config.data is a value ('phantom'), not a section: give --config.data=..."
    assert reference.explain("data.name", config) == expected
    monkeypatch.setitem(reference.RENAMED, "optim.rate", "optim.peak_lr")
    assert reference.explain("optim.rate", config) == "config.optim.rate has a new name: give --config.optim.peak_lr"
    bench = importlib.import_module("configs.bench").get_config().to_dict()
    assert reference.explain("pretrain.optim.rate", bench).endswith("give --config.pretrain.optim.peak_lr")


def test_a_default_is_written_in_no_config_file():
    """What configs/ change differs from the defaults, but for values that a preset holds against another preset."""
    for system, changed in pretrain.systems.SYSTEMS.items():
        own = changed.get("objective", {})
        defaults = objectives.OBJECTIVES[own.get("name", system)]()
        assert all(getattr(defaults, name) != value for name, value in own.items() if name != "name"), system
    assert building.REPORTS.keys() <= building.OPTIONS.keys()
    assert OptimConfig().peak_lr == PretrainConfig().optim.peak_lr


@pytest.mark.parametrize("job", ["embed", "probe", "retrieve", "evaluate"])
def test_whether_cts_have_slices_is_the_runs_affair_unless_the_command_line_says(job):
    def parsed(*arguments):
        values = flags.FlagValues()
        config = importlib.import_module(f"configs.{job}").get_config()
        flag = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *arguments])
        values(["", *arguments])
        return typed(reference.JOBS[job], flag.value).ct_slices

    assert parsed() is None
    assert parsed("--config.ct_slices=True") is True
    assert parsed("--config.ct_slices=False") is False
    with pytest.raises(flags.Error):
        parsed("--config.ct_slices=some")


def test_settings_need_no_arrays():
    for path in (ROOT / "unimedi_jax" / "config").glob("*.py"):
        roots = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        assert not roots & {"jax", "flax", "optax", "numpy"}, path
