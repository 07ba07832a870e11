"""UniMedI as a whole: names of its parameters, the joint sequence of a CT, and features."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import patches, trees
from unimedi_jax.models import inputs, sizes, towers

LAYER = {
    "attention/out/bias",
    "attention/out/kernel",
    "attention/qkv/bias",
    "attention/qkv/kernel",
    "mlp/fc1/bias",
    "mlp/fc1/kernel",
    "mlp/fc2/bias",
    "mlp/fc2/kernel",
    "norm1/bias",
    "norm1/scale",
    "norm2/bias",
    "norm2/scale",
}
DENSE = {"bias", "kernel"}
PROJECTION = {"fc1/bias", "fc1/kernel", "fc2/bias", "fc2/kernel", "norm1/bias", "norm1/scale"}
HEAD = {f"{name}/{part}" for name in ("fc1", "fc2", "fc3") for part in DENSE} | {"last_layer"}
# Paths are the interface of checkpoints, weight decay, sharding, freezing and converters.
PATHS = {
    *(f"{head}/{name}" for head in ("head_cls", "head_patch") for name in HEAD),
    *(f"{side}/{name}" for side in ("project_image", "project_report") for name in PROJECTION),
    *(f"report/layers/{name}" for name in LAYER),
    *(f"report/norm/{name}" for name in ("bias", "scale")),
    "report/words/embedding",
    "report/positions/embedding",
    "report/segments",
    *(f"vision/trunk/blocks/{name}" for name in LAYER),
    *(f"vision/trunk/norm/{name}" for name in ("bias", "scale")),
    *(f"vision/patch_{rank}d/{name}" for rank in (2, 3) for name in DENSE),
    "vision/cls",
    "vision/mask_token",
    "vision/position_cls",
    "vision/position_2d",
    "vision/position_3d",
}
WINDOW = (-1000.0, 1000.0)


def run(model: towers.UniMedI, variables, *args, method: str):
    return jax.jit(lambda v, a: model.apply(v, *a, method=method))(variables, args)


def test_paths_of_the_parameters(tiny_variables) -> None:
    assert set(trees.names(tiny_variables["params"])) == PATHS
    norms = {f"norm{i}/{x}" for i in (1, 2) for x in ("mean", "var")}
    sides = ("project_image", "project_report")
    expected = {f"{side}/{name}" for side in sides for name in norms}
    assert set(trees.names(tiny_variables["batch_stats"])) == expected


def test_options_add_and_remove_parameters(make_tiny) -> None:
    model = make_tiny(projection="linear", type_embedding=True, slice_embedding=True)
    variables = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    added = {f"vision/{name}" for name in ("type_2d", "type_3d", "depth_of_slice")}
    actual = set(trees.names(variables["params"]))
    assert actual - PATHS == added | {f"project_{side}/fc/kernel" for side in ("image", "report")}
    assert PATHS - actual == {path for path in PATHS if path.startswith(("project_", "head_"))}
    assert "batch_stats" not in variables


def test_parameters_are_float32_whatever_the_arithmetic(make_tiny) -> None:
    model = make_tiny(dtype="bfloat16")
    variables = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_pixels_and_hounsfield_units_go_to_plus_minus_one() -> None:
    actual = inputs.image(jnp.array([[[0, 51, 255]]], jnp.uint8))
    np.testing.assert_allclose(actual[0, 0], [-1.0, -0.6, 1.0], atol=1e-6)
    units = jnp.array([-3000, -1000, -500, 0, 400, 32767], jnp.int16)
    actual = inputs.hounsfield(units, (-1000.0, 400.0))
    np.testing.assert_allclose(actual, [-1, -1, -2 / 7, 3 / 7, 1, 1], atol=1e-6)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_slices_are_resized_like_torch(size: int) -> None:
    torch = pytest.importorskip("torch")
    slices = np.random.default_rng(0).integers(-1500, 1500, (2, 3, 32, 32), np.int16)
    actual = inputs.slice_patches(jnp.asarray(slices), size, (16, 16), WINDOW)
    windowed = torch.tensor(slices).float().clip(*WINDOW) / 1000
    theirs = torch.nn.functional.interpolate(windowed, size, mode="bilinear").reshape(6, size, size)
    expected = patches.patchify(theirs.numpy(), (16, 16)).reshape(actual.shape)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "slices"),
    [
        ({}, 2),
        ({"slices_per_layer": 4}, 8),
        ({"slices": 0}, 0),
        ({"slice_size": 32, "slice_embedding": True}, 2),
        ({"volume_size": (8, 64, 64), "volume_patch": (1, 32, 32), "slices": 7}, 7),
    ],
)
def test_the_joint_sequence_is_slices_then_volume(
    make_tiny, make_batch, random_params, settings: dict, slices: int
) -> None:
    model = make_tiny(**settings)
    params = random_params(model)
    tokens = make_batch(model, 0, 2)["ct"]["tokens"]
    grid = model.volume_grid
    k = settings.get("slices", 2)
    layers = jnp.tile(jnp.arange(grid[0] - k, grid[0])[None], (2, 1))
    actual = run(model, {"params": params}, tokens, layers, method="embed_ct")
    volume = run(model, {"params": params}, tokens, method="embed_volume")
    per_slice = (model.slice_size // 16) ** 2
    assert actual.shape == (2, slices * per_slice + tokens.shape[1], 32)
    near = float32(1024, scale=4)  # a patch has so many voxels
    np.testing.assert_allclose(actual[:, slices * per_slice :], volume, atol=near)
    if not slices:
        return
    # The first slice again, cut from the array itself.
    array = patches.unpatchify(np.asarray(tokens), grid, model.volume_patch)
    depth = model.volume_patch[0]
    first = depth * (grid[0] - k) + (depth // 2 if model.slices_per_layer == 1 else 0)
    pixels = inputs.slice_patches(jnp.asarray(array[:, first : first + 1]), model.slice_size, model.image_patch, WINDOW)
    of_slice = (model.slice_size // 16,) * 2
    expected = model.vision.apply({"params": params["vision"]}, pixels, layers[:, :1], of_slice, method="embed_slices")
    np.testing.assert_allclose(actual[:, :per_slice], expected, atol=near)


def test_features_of_xrays(tiny, tiny_variables, make_batch) -> None:
    actual = run(tiny, tiny_variables, make_batch(tiny, 3, 0)["xray"]["tokens"], method="xray_features")
    assert actual.cls.shape == (3, 32)
    assert actual.scores.shape == (3, 16)
    assert actual.slice_scores is None
    assert actual.layers is None
    np.testing.assert_allclose(np.linalg.norm(actual.z, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("with_slices", [True, False])
def test_features_of_cts(tiny, tiny_variables, make_batch, with_slices: bool) -> None:
    tokens = make_batch(tiny, 0, 3)["ct"]["tokens"]

    def features(tokens):
        return tiny.apply(tiny_variables, tokens, with_slices, method="ct_features")

    actual = jax.jit(features)(tokens)
    volume = run(tiny, tiny_variables, tokens, method="embed_volume")
    vision = {"params": tiny_variables["params"]["vision"]}
    alone = jax.jit(lambda vision: tiny.vision.apply(vision, volume, True, method="encode"))(vision)
    by_layer = np.asarray(alone.scores).reshape(3, 4, 4).mean(axis=2)
    np.testing.assert_allclose(actual.slice_scores, by_layer, atol=1e-5)
    np.testing.assert_array_equal(actual.layers, np.sort(np.argsort(-by_layer, axis=1)[:, :2], axis=1))
    assert actual.scores.shape == (3, 2 * 16 + 16 if with_slices else 16)
    assert np.allclose(actual.cls, alone.cls, atol=float32(64, depth=2 * LAYER_SUMS)) != with_slices


def test_sizes_that_do_not_divide_are_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        make_tiny(image_size=60)
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        make_tiny(volume_patch=(5, 16, 16))
    assert {"B", "Mu"} <= sizes.VISION.keys() & sizes.REPORT.keys()
