"""Nothing imports upwards, and what runs before the devices never imports jax."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HOUSE = "unimedi_jax"
# Low to high. A module may import from its own line and from those above it.
LAYERS = (
    ("typing", "errors", "progress", "trees", "patches", "placement"),
    ("losses", "selection", "metrics", "models", "flops", "hlo", "input", "data"),
    ("optim", "sharding", "hosts", "compilations", "fingerprint", "manifest", "checkpoint", "writers"),
    ("objectives",),
    ("train.state", "train.gradcache", "train.step", "train.guard", "train.stop"),
    ("convert", "evals", "report"),
    ("train", "downstream"),
    ("aot", "bench"),
    ("main",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HOST = ("input", "data")  # numpy alone: workers of the input pipeline, offline builds
HOST_MAY_USE = (*HOST, "typing", "errors", "progress", "patches")
FILES = [
    *(ROOT / HOUSE).rglob("*.py"),
    *(ROOT / "data").rglob("*.py"),
    ROOT / "main.py",
]


def module(path: pathlib.Path) -> str:
    """Dotted name, without the package's own: `models.vision`, `data.films`, `main`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts).removeprefix(f"{HOUSE}.")


def group(name: str) -> str | None:
    """The longest entry of LAYERS that holds a module; None for the bare package."""
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    return name or None


KNOWN = {module(path) for path in FILES}


def imports(path: pathlib.Path) -> set[str]:
    """Everything a file imports, at any depth of its code: own modules by `module`'s names, others in full."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix(f"{HOUSE}.")
                found.add(full if full in KNOWN else (node.module or ""))
    return {name.removeprefix(f"{HOUSE}.") for name in found}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_imports_upwards(path: pathlib.Path) -> None:
    own = group(module(path))
    if own is None:  # the package's __init__: one door, opened when it is used
        assert imports(path) & KNOWN <= {"convert.embed"}
        assert not [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import)]
        return
    for name in imports(path) & KNOWN:
        other = group(name)
        assert other is not None, f"{module(path)} imports the bare package"
        assert LEVEL[other] <= LEVEL[own], f"{module(path)} imports {name}, which stands above it"
        if own in HOST:
            assert other in HOST_MAY_USE, f"{module(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if group(module(p)) in HOST_MAY_USE], ids=module)
def test_host_code_never_imports_jax(path: pathlib.Path) -> None:
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & {"jax", "jaxlib", "flax", "optax", "torch", "tensorflow"}


def test_every_module_has_its_layer() -> None:
    assert [name for name in KNOWN if name != HOUSE and group(name) is None] == []
