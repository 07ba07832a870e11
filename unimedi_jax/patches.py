"""Cutting images and volumes into patches and putting them together again.

Only array methods are used, so the same code serves numpy in the input pipeline and jax in the step.
"""

import math
from typing import TypeVar

A = TypeVar("A")  # numpy.ndarray or jax.Array


def grid(space: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """Number of patches along each axis. Raises ValueError: the space is no multiple of the patch."""
    if len(space) != len(patch) or any(s % p for s, p in zip(space, patch, strict=True)):
        raise ValueError(f"size {space} is not a multiple of the patch {patch}")
    return tuple(s // p for s, p in zip(space, patch, strict=True))


def patchify(x: A, patch: tuple[int, ...]) -> A:
    """(b, *space) -> (b, n, v): raster order over the grid, and raster order inside a patch.

    The first axis of the grid runs slowest, so the tokens of one depth layer of a volume are contiguous.
    """
    batch, *space = x.shape
    counts = grid(tuple(space), patch)
    x = x.reshape(batch, *(size for pair in zip(counts, patch, strict=True) for size in pair))
    order = [*range(1, 2 * len(patch), 2), *range(2, 2 * len(patch) + 1, 2)]
    return x.transpose(0, *order).reshape(batch, math.prod(counts), math.prod(patch))


def unpatchify(tokens: A, grid: tuple[int, ...], patch: tuple[int, ...]) -> A:
    """(b, n, v) -> (b, *space): the inverse of `patchify` for a `grid` of patches."""
    rank = len(patch)
    x = tokens.reshape(tokens.shape[0], *grid, *patch)
    order = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    return x.transpose(0, *order).reshape(tokens.shape[0], *(n * p for n, p in zip(grid, patch, strict=True)))
