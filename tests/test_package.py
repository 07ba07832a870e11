"""The package as a stranger installs it: one name in site-packages, and the command from another folder."""

import ast
import email
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import cv2
import numpy as np
import pytest

import unimedi_jax
from tests.conftest import ROOT

FOLDERS = {"unimedi_jax", f"unimedi_jax-{unimedi_jax.__version__}.dist-info"}
SUFFIXES = {".py", ".html", ".css", ".toml", ".typed"}


def environment(installed: pathlib.Path) -> dict[str, str]:
    return {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}


@pytest.fixture
def elsewhere(tmp_path) -> pathlib.Path:
    """A user's project with a `data` and a `configs` of its own, which nothing here may import."""
    for name in ("data", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('somebody else')\n")
    return tmp_path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == FOLDERS
    code = [name for name in names if name.startswith("unimedi_jax/")]
    assert {pathlib.Path(name).suffix for name in code} == SUFFIXES
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("unimedi_jax", "data", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in SUFFIXES
    }
    inside = {name.removeprefix("unimedi_jax/") if "/data/" in name or "/configs/" in name else name for name in code}
    assert inside == sources, "every module and template, no test, no document, nothing that was left in the folder"


def test_only_import_statements_differ_and_none_is_left_behind(wheel):
    archive = zipfile.ZipFile(wheel)
    for name in (name for name in archive.namelist() if name.endswith(".py")):
        inner = name.removeprefix("unimedi_jax/")
        path = ROOT / (inner if inner.startswith(("data/", "configs/")) else name)
        ours, theirs = path.read_text(encoding="utf-8").splitlines(), archive.read(name).decode().splitlines()
        changed = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
        for a, b in changed:
            assert re.fullmatch(r"\s*from (data|configs)\b.*", a), a
            assert b == re.sub(r"from (?=data|configs)", "from unimedi_jax.", a, count=1)
        for node in ast.walk(ast.parse("\n".join(theirs))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {module.partition(".")[0] for module in modules} & {"data", "configs", "tests"}, name


def test_its_facts_stand_in_one_place(wheel):
    archive = zipfile.ZipFile(wheel)
    content = next(name for name in archive.namelist() if name.endswith("METADATA"))
    facts = email.message_from_bytes(archive.read(content))
    assert facts["Version"] == unimedi_jax.__version__
    assert facts["License-Expression"] == "Apache-2.0"
    extras = set(facts.get_all("Provides-Extra"))
    names = "cuda tpu beam cloud translate gpl wandb mlflow faiss dicomweb aot dev"
    assert extras == set(names.split())
    required = facts.get_all("Requires-Dist")
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    assert sum("extra ==" not in line for line in required) == len([line for line in lines if line])
    assert any(line.startswith("apache-beam") and line.endswith('extra == "dev"') for line in required)
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {unimedi_jax.__version__}\n" in text
    assert f"## {unimedi_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not {"version", "dependencies", "optional-dependencies"} & project.keys()


def test_import_brings_no_other_name_and_no_jax(installed, elsewhere):
    code = (
        "import sys, unimedi_jax; from unimedi_jax.data.readers import xrays; from unimedi_jax.configs import compare; "
        "import json; print(json.dumps([unimedi_jax.__file__, sorted({'data', 'configs', 'jax'} & set(sys.modules))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment(installed), capture_output=True, text=True
    )
    assert done.stdout == f'["{installed}/unimedi_jax/__init__.py", []]\n', done.stderr


def test_the_command_finds_its_configs_and_builds_a_manifest(installed, elsewhere):
    def unimedi(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(installed / "bin" / "unimedi"), *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment(installed), capture_output=True, text=True)

    assert "unimedi --config=<job>" in unimedi("--help").stdout
    cv2.imwrite(str(elsewhere / "film.png"), np.tile(np.arange(300, dtype=np.uint8), (280, 1)))
    rows = [f"film.png,xray,There is a nodule of {n} mm.,patient {n}" for n in range(4)]
    (elsewhere / "rows.csv").write_text("\n".join(["path,modality,report,patient", *rows, ""]))
    built = unimedi("--config=build:manifest", "--config.source=rows.csv", "--config.name=mine")
    assert built.returncode == 0, built.stderr
    assert (elsewhere / "records" / "mine" / "contract.json").is_file()
    assert "next: unimedi --config=pretrain" in built.stdout + built.stderr
    wrong = unimedi("--config=pretrian:demo")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "no config file 'pretrian:demo': a path, or one of build, pretrain" in wrong.stderr
