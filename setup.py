"""Builds the package: `unimedi_jax` alone, with the folders `data` and `configs` of the clone inside it.

In a clone the three lie side by side. In site-packages `data` and `configs` are names that anybody's project may have:
there they are `unimedi_jax.data` and `unimedi_jax.configs`, and the import statements of the copies say so. (pip does
it with the packages that it vendors.) Nothing but import statements changes. Facts of the project: pyproject.toml.
"""

import ast
import pathlib
import re
import sys

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
HOUSE, INSIDE = "unimedi_jax", ("data", "configs")
EXTRAS = ("cuda", "tpu", "beam", "cloud", "translate", "gpl", "wandb", "mlflow", "faiss", "dicomweb", "aot", "dev")


def requirements(name: str) -> list[str]:
    """What a requirements file lists, and the files it names but for requirements.txt, which everybody needs."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    listed = []
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        option, _, other = line.partition(" ")
        if option != "-r":
            listed.append(line)
        elif other != "requirements.txt":
            listed += requirements(other)
    return listed


def renamed(source: str) -> str:
    """A module's text with `from data...` as `from unimedi_jax.data...`, and the same of `configs`.

    Raises:
        ValueError: `import data...` binds a name that would have to change in the code.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] in INSIDE for alias in node.names):
            raise ValueError(f"line {node.lineno}: write from {node.names[0].name} import ...")
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in INSIDE:
            line, start = lines[node.lineno - 1], node.col_offset  # what stands before an import is ASCII
            lines[node.lineno - 1] = line[:start] + re.sub(r"^from\s+", f"from {HOUSE}.", line[start:])
    return "".join(lines)


class Build(build_py):
    """Copies the modules with their imports renamed."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copies one module; its text is always taken anew."""
        target, copied = super().build_module(module, module_file, package)
        text = pathlib.Path(module_file).read_text(encoding="utf-8")
        pathlib.Path(target).write_text(renamed(text), encoding="utf-8")
        return target, copied


packages = [*find_packages(include=[HOUSE, f"{HOUSE}.*", "data", "data.*"]), "configs"]
places = {}
if "editable_wheel" not in sys.argv:  # `pip install -e .` uses the clone as it is
    places = {f"{HOUSE}.{name}": name for name in INSIDE}
    packages = [name if name.partition(".")[0] == HOUSE else f"{HOUSE}.{name}" for name in packages]

setup(
    packages=packages,
    package_dir=places,
    include_package_data=False,  # by its name and no other way: the templates, the words, the mark of typed code
    package_data={"": ["templates/*", "words/*", "py.typed"]},
    cmdclass={"build_py": Build},
    install_requires=requirements("requirements.txt"),
    extras_require={name: requirements(f"requirements-{name}.txt") for name in EXTRAS},
)
