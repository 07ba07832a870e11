"""Names that say nothing, functions too wide to call, and ways around the tools: none of them in product code."""

import ast
import pathlib
import re
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [
    *(path for part in ("unimedi_jax", "data", "configs") for path in (ROOT / part).rglob("*.py")),
    ROOT / "main.py",
]
VAGUE = {"found", "told", "seen", "taught", "said", "kept", "wanted", "given"}
MOST_PARAMETERS = 8  # `self` counts


def vague_names(node: ast.AST) -> Iterator[str]:
    """Variables and parameters whose name is a participle: what was found, and where?"""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
        yield node.id
    elif isinstance(node, ast.arg) and node.arg in VAGUE:
        yield node.arg


def wide_functions(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
        if count > MOST_PARAMETERS:
            yield f"{node.name} has {count} parameters"


def private_imports(node: ast.AST) -> Iterator[str]:
    """Imports from the inside of another library, which may move in any release."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
    modules = [f"{getattr(node, 'module', None) or ''}.{name}" for name in names]
    yield from (name for name in modules if "_src" in name.split("."))


def planted_modules(node: ast.AST) -> Iterator[str]:
    """`sys.modules` is the interpreter's own."""
    if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules":
        yield "sys.modules"


@pytest.mark.parametrize("rule", [vague_names, wide_functions, private_imports, planted_modules])
def test_no_line_of_the_product_breaks_the_rule(rule: Callable[[ast.AST], Iterator[str]]) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{node.lineno} {what}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for what in rule(node)
    ]
    assert broken == []


def test_the_formatter_lays_out_every_line() -> None:
    switched_off = re.compile(r"#\s*fmt:\s*(skip|off)")
    assert [path for path in FILES if switched_off.search(path.read_text(encoding="utf-8"))] == []
