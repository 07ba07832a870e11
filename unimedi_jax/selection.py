"""What the teacher's CLS attention decides: which slices of a CT and which tokens the student sees.

Everything here works on detached scores: a hard top-k has no gradient, and the method uses no estimator for one.
Shapes are static: the number of slices and of kept tokens is a setting, only *which* ones follows the scores.
"""

import math

import jax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float, Int, Key, Num


def slice_scores(scores: Float[Array, "b n"], layers: int) -> Float[Array, "b layers"]:
    """Eq. 2: the score of a depth layer is the mean over its tokens (tokens of a layer are contiguous)."""
    return jnp.mean(scores.reshape(scores.shape[0], layers, -1), axis=-1)


def topk_indices(scores: Float[Array, "b n"], count: int) -> Int[Array, "b count"]:
    """Indices of the `count` highest scores, in ascending order of index: anatomy keeps its order."""
    _, index = jax.lax.top_k(scores, count)
    return jnp.sort(index, axis=-1)


def topk_block_indices(scores: Float[Array, "b n"], grid: tuple[int, int], block: int, count: int) -> Int[Array, "b m"]:
    """Token indices of the `count` best blocks of `block` x `block` tokens of an image (A-CLIP, arXiv 2212.08653).

    A block's score is the mean over its tokens. The indices are sorted, m = count * block**2.
    """
    rows, columns = grid
    token = jnp.arange(rows * columns).reshape(rows // block, block, columns // block, block)
    token = token.transpose(0, 2, 1, 3).reshape(-1, block * block)
    best = topk_indices(jnp.mean(scores[:, token], axis=-1), count)
    return jnp.sort(token[best].reshape(scores.shape[0], -1), axis=-1)


def best_tokens(
    scores: Float[Array, "b n"], mask_ratio: float, grid: tuple[int, ...], block: int = 1
) -> Int[Array, "b m"]:
    """Indices of the share of tokens that `mask_ratio` leaves, the best ones; in an image the best whole blocks."""
    if block > 1 and len(grid) == 2:
        return topk_block_indices(scores, grid, block, num_kept(scores.shape[1] // block**2, mask_ratio))
    return topk_indices(scores, num_kept(scores.shape[1], mask_ratio))


def check_blocks(grid: tuple[int, int], block: int) -> None:
    """Raises ValueError where a grid of tokens does not divide into blocks of `mask_block`."""
    if any(count % block for count in grid):
        raise ValueError(f"mask_block={block} does not divide an X-ray's grid of {grid[0]} x {grid[1]} tokens")


def num_kept(tokens: int, mask_ratio: float) -> int:
    """How many of `tokens` the student sees: ceil((1 - mask_ratio) * tokens)."""
    # Rounded first: (1 - 0.7) * 10 is a hair above 3 in binary, and its ceiling would be 4.
    return math.ceil(round((1 - mask_ratio) * tokens, 6))


def random_scores(key: Key[Array, ""], like: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Scores that carry no information, for the random-mask and random-slice ablations."""
    return jax.random.uniform(key, like.shape)


def gather_tokens(x: Num[Array, "b n ..."], index: Int[Array, "b m"]) -> Num[Array, "b m ..."]:
    """Rows `index[i]` of every `x[i]`."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def take_slices(
    tokens: Num[Array, "b n v"],
    layers: Int[Array, "b k"],
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
    per_layer: int,
) -> Num[Array, "b s y x"]:
    """Axial slices of the chosen depth layers, straight from the volume's tokens.

    `per_layer` = 1 takes the layer's centre slice, = patch depth takes all of them; s = k * per_layer.
    """
    batch, depth = tokens.shape[0], patch[0]
    if per_layer not in (1, depth):
        raise ValueError(f"slices_per_layer is 1 or the patch depth {depth}, not {per_layer}")
    chosen = gather_tokens(tokens.reshape(batch, grid[0], -1), layers)  # whole layers, then cut
    chosen = chosen.reshape(batch, -1, *grid[1:], *patch)  # b k gy gx pz py px
    if per_layer == 1:
        chosen = chosen[..., depth // 2 : depth // 2 + 1, :, :]
    chosen = chosen.transpose(0, 1, 4, 2, 5, 3, 6)  # b k pz gy py gx px
    return chosen.reshape(batch, -1, grid[1] * patch[1], grid[2] * patch[2])
