"""Slices and tokens that the scores select, against loops over plain arrays."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from unimedi_jax import patches, selection


def test_a_layers_score_is_the_mean_over_its_64_tokens() -> None:
    scores = np.random.default_rng(0).random((3, 512), np.float32)
    actual = selection.slice_scores(jnp.asarray(scores), 8)
    for layer in range(8):
        expected = scores[:, 64 * layer : 64 * (layer + 1)].mean(axis=1)
        np.testing.assert_allclose(actual[:, layer], expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_top_keeps_the_highest_in_order(count: int) -> None:
    scores = np.random.default_rng(count).random((3, 40), np.float32)
    actual = np.asarray(selection.topk_indices(jnp.asarray(scores), count))
    expected = np.sort(np.argsort(-scores, axis=1)[:, :count], axis=1)
    np.testing.assert_array_equal(actual, expected)


def test_top_of_nothing_is_empty() -> None:
    assert selection.topk_indices(jnp.ones((3, 8)), 0).shape == (3, 0)


def test_blocks_of_an_xray_keep_25_of_49() -> None:
    scores = np.random.default_rng(0).random((2, 196), np.float32)
    count = selection.num_kept(49, 0.5)
    index = np.asarray(selection.topk_block_indices(jnp.asarray(scores), (14, 14), 2, count))
    assert count == 25
    assert index.shape == (2, 100)
    assert (np.diff(index, axis=1) > 0).all()
    for row, chosen in zip(scores, index, strict=True):
        mean = {
            (y, x): row.reshape(14, 14)[y : y + 2, x : x + 2].mean() for y in range(0, 14, 2) for x in range(0, 14, 2)
        }
        best = sorted(mean, key=mean.get, reverse=True)[:25]
        expected = {14 * (y + i) + x + j for y, x in best for i in (0, 1) for j in (0, 1)}
        assert set(chosen.tolist()) == expected


def test_blocks_must_divide_the_grid() -> None:
    with pytest.raises(ValueError, match="mask_block=2"):
        selection.check_blocks((6, 7), 2)
    selection.check_blocks((6, 8), 2)


@pytest.mark.parametrize("tokens", [1, 10, 16, 49, 196, 512, 904, 1885])
def test_kept_is_the_exact_ceiling(tokens: int) -> None:
    for percent in range(100):
        assert selection.num_kept(tokens, percent / 100) == -(-(100 - percent) * tokens // 100)


def test_gather_takes_the_rows_named() -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 9, (3, 5))
    for x in (rng.random((3, 9, 4), np.float32), rng.random((3, 9), np.float32)):
        expected = [row[i] for row, i in zip(x, index, strict=True)]
        actual = selection.gather_tokens(jnp.asarray(x), jnp.asarray(index))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("patch", "per_layer"), [((4, 4, 4), 1), ((4, 4, 4), 4), ((1, 8, 8), 1), ((8, 2, 2), 1)])
def test_a_planted_score_returns_its_slices(patch: tuple[int, int, int], per_layer: int) -> None:
    volume = np.random.default_rng(0).integers(-1000, 1000, (2, 16, 16, 16), np.int16)
    cells = patches.grid((16, 16, 16), patch)
    planted = [[0, cells[0] - 1], [cells[0] // 2 - 1, cells[0] // 2]]
    scores = np.random.default_rng(1).random((2, *cells), np.float32)
    for row, layers in zip(scores, planted, strict=True):
        row[layers[::-1]] += [[[3.0]], [[2.0]]]  # the later layer scores higher, yet comes second
    by_layer = selection.slice_scores(jnp.asarray(scores.reshape(2, -1)), cells[0])
    layers = selection.topk_indices(by_layer, 2)
    assert layers.tolist() == planted
    tokens = jnp.asarray(patches.patchify(volume, patch))
    actual = selection.take_slices(tokens, layers, cells, patch, per_layer)
    depth = patch[0]
    inside = [depth // 2] if per_layer == 1 else range(depth)
    for row, chosen, slices in zip(volume, planted, actual, strict=True):
        z = [depth * layer + i for layer in chosen for i in inside]
        np.testing.assert_array_equal(slices, row[z])


def test_slices_per_layer_is_one_or_all() -> None:
    tokens, layers = jnp.zeros((1, 64, 64), jnp.int16), jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ValueError, match="1 or the patch depth 4"):
        selection.take_slices(tokens, layers, (4, 4, 4), (4, 4, 4), 2)


def test_random_scores_follow_the_key_alone() -> None:
    like = jnp.zeros((2, 30))
    a, again, b = (selection.random_scores(jax.random.key(seed), like) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert not np.allclose(a, b)
    assert len(np.unique(a)) == 60
