"""Parameter trees by path: names like `vision/blocks/attention/qkv/kernel`, and rules that match them."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from unimedi_jax.typing import PyTree

T = TypeVar("T")


def names(tree: PyTree) -> list[str]:
    """Slash-joined path of every leaf, in the order of `jax.tree.leaves`."""
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def map_with_name(function: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """`function(name, leaf)` over a tree, `name` being the leaf's slash-joined path."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)


def match(rules: Sequence[tuple[str, T]], paths: Sequence[str], what: str) -> dict[str, T]:
    """For each path, the value of the first rule whose regular expression occurs in it.

    Raises:
        ValueError: no rule matches a path, or a rule matches none.
    """
    used: set[str] = set()

    def value(path: str) -> T:
        for pattern, result in rules:
            if re.search(pattern, path):
                used.add(pattern)
                return result
        raise ValueError(f"no {what} rule matches the parameter {path}")

    chosen = {path: value(path) for path in paths}
    if unused := [pattern for pattern, _ in rules if pattern not in used]:
        raise ValueError(f"{what} rules that match no parameter: {unused}")
    return chosen


def first_match(rules: Sequence[tuple[str, T]], tree: PyTree, what: str) -> PyTree:
    """For each leaf, the value of the first rule whose regular expression occurs in its path.

    Raises:
        ValueError: no rule matches a leaf, or a rule matches no leaf: both are typing errors in a configuration, and
            silence would replicate, decay or freeze the wrong parameters.
    """
    chosen = match(rules, names(tree), what)
    return map_with_name(lambda name, _: chosen[name], tree)


def shapes(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every leaf, an array or what stands for one, by its path."""
    leaves = zip(names(tree), jax.tree.leaves(tree), strict=True)
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves}


def count(tree: PyTree) -> int:
    """Number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
