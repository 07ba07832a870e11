"""Means over the pictures of a study: what is scored by study beside what is scored by picture."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int


def groups(keys: Sequence[Hashable]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " g"]]:
    """The group of every row, numbered by first appearance, and the first row of every group."""
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)
    return group, np.unique(group, return_index=True)[1]


def mean(x: Float[np.ndarray, "n d"], group: Int[np.ndarray, " n"]) -> Float[np.ndarray, "g d"]:
    """The mean row of every group."""
    total = np.zeros((int(group.max()) + 1, x.shape[1]))
    np.add.at(total, group, x)
    return (total / np.bincount(group)[:, None]).astype(x.dtype)


def present(labels: Float[np.ndarray, "n c"], group: Int[np.ndarray, " n"]) -> Float[np.ndarray, "g c"]:
    """1 where any picture of a group has it, NaN where none is known."""
    result = np.full((int(group.max()) + 1, labels.shape[1]), -np.inf)
    np.maximum.at(result, group, np.where(np.isnan(labels), -np.inf, labels))
    return np.where(np.isneginf(result), np.nan, result).astype(labels.dtype)
