"""The non-linear part of the tokenizers against a slow twin, and what it must leave alone."""

import itertools
import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax import patches
from unimedi_jax.config.pretraining import InitConfig, ModelConfig, PretrainConfig
from unimedi_jax.models import towers

NONLINEAR = dict(tokenizer="nonlinear", subpatch_hidden=6)


@pytest.fixture(scope="module")
def model(make_tiny) -> towers.UniMedI:
    return make_tiny(**NONLINEAR)


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model)["vision"]


def embed(tower, params, *args, method: str) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: tower.apply({"params": params}, *args, method=method))(params))


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def slow(space: np.ndarray, patch: tuple[int, ...], subpatch: tuple[int, ...], linear, inside) -> np.ndarray:
    """Tokens of one image or volume in float64, patch by patch and sub-patch by sub-patch, cut by their corners."""

    def corners(size, step):
        return itertools.product(*(range(0, s, t) for s, t in zip(size, step, strict=True)))

    def cut(x, corner, size):
        return x[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))]

    tokens = []
    for corner in corners(space.shape, patch):
        cube = cut(space, corner, patch).astype(np.float64)
        hidden = []
        for start in corners(patch, subpatch):
            x = cut(cube, start, subpatch).reshape(-1)
            for layer in (inside["fc1"], inside["fc2"]):
                x = gelu(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
            hidden.append(x)
        joined = np.concatenate([*hidden, np.max(hidden, axis=0)])
        token = cube.reshape(-1) @ np.float64(linear["kernel"]) + np.float64(linear["bias"])
        tokens.append(token + joined @ np.float64(inside["out"]["kernel"]))
    return np.stack(tokens)


@pytest.mark.parametrize(
    ("method", "rank", "space", "patch", "subpatch"),
    [
        ("embed_image", "2d", (64, 64), (16, 16), (4, 4)),
        ("embed_image", "2d", (32, 48), (16, 16), (4, 4)),  # a crop of another grid
        ("embed_volume", "3d", (16, 32, 32), (4, 16, 16), (2, 4, 4)),
        ("embed_volume", "3d", (8, 48, 16), (4, 16, 16), (2, 4, 4)),
    ],
)
def test_tokens_equal_a_slow_twin(model, params, method, rank, space, patch, subpatch) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (2, *space)).astype(np.float32)
    still = params | {f"position_{rank}": 0 * params[f"position_{rank}"]}
    grid = patches.grid(space, patch)
    actual = embed(model.vision, still, jnp.asarray(patches.patchify(x, patch)), grid, method=method)
    parts = params[f"patch_{rank}"], params[f"subpatch_{rank}"]
    expected = np.stack([slow(image, patch, subpatch, *parts) for image in x])
    tolerance = float32(math.prod(patch), depth=4, scale=np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    silent = {**still, f"subpatch_{rank}": jax.tree.map(jnp.zeros_like, params[f"subpatch_{rank}"])}
    linear = embed(model.vision, silent, jnp.asarray(patches.patchify(x, patch)), grid, method=method)
    assert np.abs(linear - actual).max() > 100 * tolerance, "the sub-patches' part would not be proved"


def test_the_linear_tokenizer_has_no_further_parameters(tiny, tiny_variables, model) -> None:
    """And the non-linear one has those of both, so that weights of the linear one fit."""
    assert not [name for name in tiny_variables["params"]["vision"] if "subpatch" in name]
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))["params"]["vision"]
    assert shapes.keys() - tiny_variables["params"]["vision"].keys() == {"subpatch_2d", "subpatch_3d"}
    assert jax.tree.map(jnp.shape, shapes["patch_3d"]) == jax.tree.map(
        jnp.shape, tiny_variables["params"]["vision"]["patch_3d"]
    )


def test_slices_of_a_ct_reach_the_sub_patches_of_x_rays(model, random_params, make_batch) -> None:
    tokens, layers = make_batch(model, 0, 2)["ct"]["tokens"], jnp.array([[0, 2], [1, 3]])
    params = random_params(model)

    def total(params):
        return jnp.sum(model.apply({"params": params}, tokens, layers, method="embed_ct") ** 2)

    grads = jax.jit(jax.grad(total))(params)["vision"]
    for name, leaf in jax.tree_util.tree_leaves_with_path({k: v for k, v in grads.items() if "subpatch" in k}):
        assert np.abs(leaf).max() > 0, name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(tokenizer="mixed"), "tokenizer must be one of linear, nonlinear, not 'mixed'"),
        (dict(tokenizer="nonlinear", image_patch=(14, 14)), r"image_subpatch=\(4, 4\) does not divide .*\(14, 14\)"),
        (dict(tokenizer="nonlinear", volume_patch=(1, 32, 32)), r"volume_subpatch=\(2, 4, 4\) does not divide"),
        (dict(tokenizer="nonlinear", image_subpatch=(0, 4)), "does not divide"),
        (dict(tokenizer="nonlinear", subpatch_hidden=0), "subpatch_hidden must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig(**settings)


def test_a_part_that_starts_at_zero_is_not_frozen_there() -> None:
    model, init = ModelConfig(tokenizer="nonlinear"), InitConfig(vision="vit.safetensors")
    PretrainConfig(model=model, freeze_patch_embed=True)
    with pytest.raises(ValueError, match="would keep the sub-patches' part of the tokenizer at zero"):
        PretrainConfig(model=model, init=init, freeze_patch_embed=True)
