"""Nothing imports upwards, and what runs before the devices never imports jax."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HOUSE = "unimedi_jax"
# Low to high. A module may import from its own line and from those above it.
LAYERS = (
    (
        "data.errors",
        "data.record_grid",
        "data.json_files",
        "data.child_processes",
        "data.plain",
        "data.record_files",
        "data.progress",
        "data.source",
        "data.reasons",
        "data.contract",
        "data.pages",
        "data.members",
        "data.buckets",
        "data.next_step",
        "data.views",
    ),
    ("data.readers", "data.reports"),
    ("data.manifest", "data.phantom"),
    ("data.sets",),
    ("data.build",),
    ("data.checks",),
    ("data.job",),
    ("typing", "trees", "patches", "placement", "mean", "messages"),
    ("config",),
    ("losses", "selection", "metrics", "models", "flops", "hlo", "input"),
    ("lora", "trainable", "hlo_schedule"),
    (
        "optim",
        "sharding",
        "hosts",
        "machine",
        "compile_cache",
        "fingerprint",
        "integrity",
        "checkpoint_arrays",
        "checkpoint_reading",
        "checkpoint_sending",
        "checkpoint",
    ),
    ("trackers", "writers", "validations"),
    ("objectives",),
    ("train.state",),
    ("convert",),
    ("inference",),
    ("report",),
    ("evaluation",),
    ("train",),
    ("export", "comparison", "aot", "bench", "prediction", "search"),
    ("staging", "cli"),
    ("__main__",),
    ("main",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# numpy alone: offline builds, workers of the input pipeline, and what they share.
HOST_MAY_USE = ("data", "config", "input", "typing", "patches")
FILES = [*(ROOT / HOUSE).rglob("*.py"), *(ROOT / "data").rglob("*.py"), ROOT / "main.py"]


def module(path: pathlib.Path) -> str:
    """Dotted name: `unimedi_jax.models.vision`, `data.readers.xrays`, `main`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def group(name: str) -> str | None:
    """The longest entry of LAYERS that holds a module; None for the bare packages."""
    name = name.removeprefix(f"{HOUSE}.")
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    return name or None


def on_the_host(name: str) -> bool:
    """Whether a module has to do without JAX."""
    return (group(name) or "").partition(".")[0] in HOST_MAY_USE


KNOWN = {module(path) for path in FILES}


def imports(path: pathlib.Path) -> set[str]:
    """Everything a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in KNOWN else (node.module or ""))
    return names


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_imports_upwards(path: pathlib.Path) -> None:
    own = group(module(path))
    if own is None:  # a package's __init__: one door, opened when it is used
        assert imports(path) & KNOWN <= {"unimedi_jax.inference.embed"}
        assert not [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import)]
        return
    for name in imports(path) & KNOWN:
        other = group(name)
        assert other is not None, f"{module(path)} imports the bare package"
        assert LEVEL[other] <= LEVEL[own], f"{module(path)} imports {name}, which stands above it"
        assert not on_the_host(module(path)) or on_the_host(name), f"{module(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if on_the_host(module(p))], ids=module)
def test_host_code_never_imports_jax(path: pathlib.Path) -> None:
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & {"jax", "jaxlib", "flax", "optax", "torch", "tensorflow"}


def test_every_module_has_its_layer() -> None:
    assert [name for name in KNOWN if name not in (HOUSE, "data") and group(name) is None] == []
