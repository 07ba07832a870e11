"""The line that a build prints last works as printed, in the folder where the build ran."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from configs import pretrain
from data import next_step
from data.record_grid import DEFAULT, RecordGrid
from unimedi_jax.config import typed
from unimedi_jax.config.pretraining import PretrainConfig

ROOT = pathlib.Path(__file__).parents[2]
BOTH = {"xray": {"train": 8, "val": 1, "test": 1}, "ct": {"train": 3, "val": 0, "test": 0}}
SETTINGS = ["--config.data=mine", "--config.data_dir=my records"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty working directory, main.py being started by its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), "--config=configs/build.py:manifest"])
    monkeypatch.setattr(next_step, "ACCELERATORS", ())
    return tmp_path


def arguments(line: str, word: str = "next") -> list[str]:
    """The words after `next: python main.py`."""
    assert line.startswith(f"{word}: python ")
    words = shlex.split(line.removeprefix(f"{word}: "))
    assert words[:2] == ["python", str(ROOT / "main.py")]
    return words[2:]


def printed(counts=BOTH, *, silent: bool = False, made: bool = True, grid: RecordGrid = DEFAULT) -> list[str]:
    return list(next_step.lines(pathlib.Path("my records/mine"), counts, silent=silent, made=made, grid=grid))


@pytest.mark.parametrize(
    ("counts", "preset"),
    [(BOTH, "demo"), ({"xray": BOTH["xray"]}, "demo,xray_only"), ({"ct": BOTH["ct"]}, "demo,ct_only")],
)
def test_a_set_is_trained_on_in_a_folder_of_its_own_with_the_modalities_it_has(counts, preset) -> None:
    (line,) = printed(counts)
    words = arguments(line)
    assert words == [f"--config=configs/pretrain.py:{preset}", *SETTINGS, "--workdir=runs/mine"]
    done = subprocess.run([sys.executable, str(ROOT / "main.py"), *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data_dir = 'my records'" in done.stdout


@pytest.mark.parametrize("small", [True, False])
def test_of_smaller_records_a_smaller_part_is_read(small, monkeypatch) -> None:
    monkeypatch.setattr(next_step, "ACCELERATORS", () if small else ("jax",))
    recipe = typed.typed(PretrainConfig, pretrain.get_config("demo" if small else ""))
    usual = (recipe.input.crop, recipe.model.ct_input[0], (recipe.model.volume_patch[0], *recipe.model.image_patch))
    assert usual == (next_step.CROP, next_step.VOLUME[small], next_step.PATCH)
    (line,) = printed(grid=RecordGrid(film_size=96, volume=(16, 60, 140)))
    volume = "--config.model.volume_size=16,48,64" if small else "--config.model.volume_size=16,48,128"
    assert arguments(line)[3:-1] == ["--config.input.crop=96", "--config.model.image_size=96", volume]
    words = [word for word in arguments(line) if "workdir" not in word]
    done = subprocess.run([sys.executable, str(ROOT / "main.py"), *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert arguments(printed({"xray": BOTH["xray"]}, grid=RecordGrid(volume=(16, 60, 140)))[0])[3:-1] == []
    assert arguments(printed({"ct": BOTH["ct"]}, grid=RecordGrid(spacing_mm=(2, 1, 1)))[0])[3:-1] == []


def test_where_jax_drives_an_accelerator_it_is_the_full_recipe(monkeypatch) -> None:
    monkeypatch.setattr(next_step, "ACCELERATORS", ("jax",))
    assert arguments(printed()[0])[0] == "--config=configs/pretrain.py"
    assert arguments(printed({"xray": BOTH["xray"]})[0])[0] == "--config=configs/pretrain.py:xray_only"


def test_a_new_set_does_not_go_on_with_the_run_of_an_earlier_one_of_its_name(elsewhere) -> None:
    (elsewhere / "runs" / "mine").mkdir(parents=True)
    assert arguments(printed()[0])[-1] == "--workdir=runs/mine-2"
    assert arguments(printed(made=False)[0])[-1] == "--workdir=runs/mine"


@pytest.mark.parametrize("counts", [BOTH, {"xray": {"train": 0, "val": 0, "test": 9}}])
def test_what_cannot_be_trained_on_is_for_the_evaluation_of_a_run(counts, elsewhere) -> None:
    silent = counts is BOTH
    train, evaluate = printed(counts, silent=silent)
    assert arguments(train) == ["--config=configs/pretrain.py:demo"]
    chosen = "--config.checkpoint=runs/pretrain-demo"
    assert arguments(evaluate, "then") == ["--config=configs/evaluate.py", chosen, *SETTINGS]
    (elsewhere / "runs" / "older" / "checkpoints" / "3").mkdir(parents=True)
    (line,) = printed(counts, silent=silent)
    assert arguments(line)[1] == "--config.checkpoint=runs/older"
