"""The line that a build prints last works as printed, in the folder where the build ran."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from data import next_step

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


def printed(counts=BOTH, *, silent: bool = False, made: bool = True) -> list[str]:
    return list(next_step.lines(pathlib.Path("my records/mine"), counts, silent=silent, made=made))


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
