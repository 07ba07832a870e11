"""Patches against PyTorch's strided convolutions."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedi_jax import patches

TILINGS = [(4, 16, 16), (1, 32, 32), (16, 8, 8)]
SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3)


@pytest.mark.parametrize("patch", TILINGS)
def test_each_tiling_of_a_ct_gives_512_tokens(patch: tuple[int, int, int]) -> None:
    volume = np.zeros((1, 32, 128, 128), np.int16)
    assert patches.patchify(volume, patch).shape == (1, 512, 1024)


def test_a_depth_layer_of_the_default_tiling_has_64_tokens() -> None:
    _, rows, columns = patches.grid((32, 128, 128), (4, 16, 16))
    assert rows * columns == 64


@pytest.mark.parametrize("patch", TILINGS)
def test_tokens_of_a_depth_layer_are_contiguous(patch: tuple[int, int, int]) -> None:
    layer_of_slice = np.arange(32) // patch[0]
    volume = np.broadcast_to(layer_of_slice[None, :, None, None], (1, 32, 128, 128))
    tokens = patches.patchify(volume, patch).reshape(32 // patch[0], -1)
    assert (tokens == np.arange(32 // patch[0])[:, None]).all()


@given(SIZES)
def test_unpatchify_undoes_patchify(axes: list[tuple[int, int]]) -> None:
    cells, patch = zip(*axes, strict=True)
    space = [c * p for c, p in axes]
    x = np.arange(2 * np.prod(space)).reshape(2, *space)
    tokens = patches.patchify(x, patch)
    np.testing.assert_array_equal(patches.unpatchify(tokens, cells, patch), x)


def test_patches_are_the_boxes_of_the_array() -> None:
    x = np.arange(4 * 6 * 6).reshape(1, 4, 6, 6)
    tokens = patches.patchify(x, (2, 3, 2))
    corners = itertools.product((0, 2), (0, 3), (0, 2, 4))
    for token, (z, y, column) in zip(tokens[0], corners, strict=True):
        box = x[0, z : z + 2, y : y + 3, column : column + 2]
        np.testing.assert_array_equal(token, box.ravel())


def test_numpy_and_jax_agree() -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (2, 8, 12), np.int16)
    ours = patches.patchify(jax.numpy.asarray(x), (4, 3))
    np.testing.assert_array_equal(ours, patches.patchify(x, (4, 3)))


@pytest.mark.parametrize(("space", "patch"), [((32, 48), (16, 16)), ((8, 16, 24), (4, 8, 8))])
def test_a_linear_map_of_patches_is_a_strided_convolution(space, patch) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *space)).astype(np.float32)
    kernel = rng.standard_normal((5, 1, *patch)).astype(np.float32)
    convolve = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[len(patch)]
    theirs = convolve(torch.from_numpy(x[:, None]), torch.from_numpy(kernel), stride=patch)
    theirs = theirs.flatten(2).transpose(1, 2).numpy()  # raster order, as timm flattens
    ours = patches.patchify(x, patch) @ kernel.reshape(5, -1).T
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("space", "patch"), [((30, 32), (16, 16)), ((32, 32), (4, 16, 16))])
def test_a_size_that_does_not_divide_is_refused(space, patch) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        patches.grid(space, patch)
