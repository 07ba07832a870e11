"""`make` on a machine whose first Python will not do: stand-ins for the interpreters, nothing is installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# An interpreter of this version: it answers `-c`, makes an environment with a copy of itself, and echoes the rest.
INTERPRETER = """#!{python}
import pathlib, shutil, sys
sys.version_info = {version}
if sys.argv[1] == "-c":
    if not {pip}:
        sys.modules["pip"] = None
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    folder = pathlib.Path(sys.argv[-1], "bin")
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(__file__, folder / "python")
else:
    print({version}, *sys.argv[1:])
"""


def interpreter(path: pathlib.Path, version: tuple[int, int, int], *, pip: bool = True) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(INTERPRETER.format(python=sys.executable, version=version, pip=pip))
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    return tmp_path


def make(folder: pathlib.Path, python: pathlib.Path) -> subprocess.CompletedProcess:
    command = ["make", "pretrain", f"PYTHON={python}"]
    variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGS")}  # make test's
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("version", "pip"), [((3, 10, 1), True), ((3, 12, 1), False)])
def test_what_a_first_attempt_left_is_made_anew_by_another_interpreter(checkout, version, pip):
    interpreter(checkout / ".venv" / "bin" / "python", version, pip=pip)
    done = make(checkout, interpreter(checkout / "python3.12", (3, 12, 3)))
    assert done.returncode == 0, done.stderr
    assert "(3, 12, 3) main.py --config=configs/pretrain.py:demo" in done.stdout


def test_an_environment_that_will_do_stays(checkout):
    interpreter(checkout / ".venv" / "bin" / "python", (3, 11, 5))
    assert "(3, 11, 5) main.py" in make(checkout, interpreter(checkout / "python3.12", (3, 12, 3))).stdout


def test_a_python_that_is_too_old_is_one_line(checkout):
    done = make(checkout, python := interpreter(checkout / "python3", (3, 10, 1)))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"{python} is Python 3.10, and 3.11 is the oldest that will do: PYTHON=python3.12 make ..."
    )
    assert not (checkout / ".venv").exists()
