"""What a row of labels says of its case: 1 present, 0 absent, NaN unknown. What is unknown is never "no finding"."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

NONE, SEVERAL, UNKNOWN = "no finding", "several findings", "findings unknown"
Row = Float[np.ndarray, " c"]


def single(labels: Float[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
    """Index of the only finding of a row, number of findings for none at all, -1 for several or unknown."""
    if not labels.shape[1]:
        return np.full(len(labels), -1)
    present = np.nansum(labels, axis=1)
    finding = np.where(present == 1, np.nan_to_num(labels).argmax(axis=1), -1)
    finding[present == 0] = labels.shape[1]
    finding[np.isnan(labels).any(axis=1)] = -1
    return finding


def joined(tables: Sequence[Float[np.ndarray, "n c"]], names: Sequence[Sequence[str]]) -> list[Int[np.ndarray, " n"]]:
    """`single` of the rows of several sets, each with the names of its labels, as indices that all of them share.

    Findings are joined by name. One that a set with labels does not know counts as unknown in the others, and "no
    finding" means none of the labels of the row's own set. The same names in another order are the same findings.
    """
    known = [own for own in names if len(own)]
    common = [name for name in known[0] if all(name in own for own in known)] if known else []
    index = {name: number for number, name in enumerate(common)}
    indices = []
    for table, own in zip(tables, names, strict=True):
        places = np.array([*(index.get(name, -1) for name in own), len(common)])
        alone = single(table)
        indices.append(np.where(alone < 0, -1, places[alone]))
    return indices


def described(row: Row, names: Sequence[str]) -> str:
    """A row of labels in words, as on the cards of a page."""
    row = np.asarray(row)
    present = [name.replace("_", " ") for name, value in zip(names, row, strict=True) if value == 1]
    unknown = np.isnan(row)
    if present:
        return ", ".join(present) + ("; other labels unknown" if unknown.any() else "")
    if unknown.all():  # of a set without labels too
        return UNKNOWN
    return "none of the known labels; others unknown" if unknown.any() else NONE


def kind(row: Row, names: Sequence[str]) -> str:
    """A row of labels in a word, as in the legend of a map: the only finding that is known to be present, if any."""
    present = [name.replace("_", " ") for name, value in zip(names, row, strict=True) if value == 1]
    if len(present) > 1:
        return SEVERAL
    if present:
        return present[0]
    return UNKNOWN if np.isnan(row).any() or not len(row) else NONE


def same(row: Row, other: Row) -> bool | None:
    """Whether two cases of a set have the same findings; None where unknown labels leave that open."""
    known = ~(np.isnan(row) | np.isnan(other))
    if (np.asarray(row)[known] != np.asarray(other)[known]).any():
        return False
    return True if known.size and known.all() else None
