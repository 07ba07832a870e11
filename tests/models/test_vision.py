"""The ViT and its scores against PyTorch on copied weights."""

from unittest import mock

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import patches, trees
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.models import sizes, towers, vision

torch = pytest.importorskip("torch")
functional = torch.nn.functional
HEADS, DEPTH, WIDTH = 4, 3, 32


def tensor(x) -> "torch.Tensor":
    return torch.tensor(np.array(x))


@pytest.fixture(scope="module")
def model(make_tiny) -> towers.UniMedI:
    return make_tiny(size=sizes.Size(WIDTH, DEPTH, HEADS, 64))


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model)["vision"]


@pytest.fixture(scope="module")
def tokens() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, 13, WIDTH))


def run(tower: vision.VisionTower, params, *args, method: str):
    return jax.jit(lambda params: tower.apply({"params": params}, *args, method=method))(params)


def torch_vit(params) -> torch.nn.TransformerEncoder:
    """PyTorch's own pre-norm encoder with the tower's weights."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    norm = torch.nn.LayerNorm(WIDTH, eps=1e-6)
    encoder = torch.nn.TransformerEncoder(layer, DEPTH, norm, enable_nested_tensor=False)
    copies = {
        "self_attn.in_proj_": "attention/qkv",
        "self_attn.out_proj.": "attention/out",
        "linear1.": "mlp/fc1",
        "linear2.": "mlp/fc2",
        "norm1.": "norm1",
        "norm2.": "norm2",
    }
    trunk = dict(zip(trees.names(params["trunk"]), jax.tree.leaves(params["trunk"]), strict=True))
    state = {"norm.weight": trunk["norm/scale"], "norm.bias": trunk["norm/bias"]}
    for index in range(DEPTH):
        for theirs, ours in copies.items():
            weight = trunk.get(f"blocks/{ours}/kernel", trunk.get(f"blocks/{ours}/scale"))[index]
            state[f"layers.{index}.{theirs}weight"] = weight.T
            state[f"layers.{index}.{theirs}bias"] = trunk[f"blocks/{ours}/bias"][index]
    encoder.load_state_dict({name: tensor(x) for name, x in state.items()})
    return encoder.eval()


@pytest.fixture(scope="module")
def judged(params, tokens) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's tokens after the final norm, and its attention as (layers, b, heads, n, n)."""
    encoder = torch_vit(params)
    cls = tensor(params["cls"] + params["position_cls"]).expand(3, 1, WIDTH)
    x = torch.cat([cls, tensor(tokens)], dim=1)
    with torch.no_grad():
        out, attention = encoder(x), []
        for layer in encoder.layers:
            normed = layer.norm1(x)
            _, weights = layer.self_attn(normed, normed, normed, average_attn_weights=False)
            attention.append(weights)
            x = layer(x)
    return out.numpy(), torch.stack(attention).numpy()


def test_vit_equals_torch(model, params, tokens, judged) -> None:
    encoded = run(model.vision, params, tokens, method="encode")
    np.testing.assert_allclose(encoded.cls, judged[0][:, 0], atol=1e-4)
    np.testing.assert_allclose(encoded.patches, judged[0][:, 1:], atol=1e-4)
    assert encoded.scores is None


def test_scores_are_equation_1(model, params, tokens, judged) -> None:
    attention = judged[1]
    assert attention.shape == (DEPTH, 3, HEADS, 14, 14)
    scores = run(model.vision, params, tokens, True, method="encode").scores
    np.testing.assert_allclose(scores, attention[..., 0, 1:].mean(axis=(0, 2)), atol=1e-5)
    layers_first = attention.mean(axis=0)[:, :, 0, 1:].mean(axis=1)  # A-CLIP's order of the means
    np.testing.assert_allclose(scores, layers_first, atol=1e-5)
    assert (scores.sum(axis=1) < 1).all()
    assert np.ptp(scores) > 0.015, "uniform scores would prove nothing"


def test_scores_without_the_cls_key_sum_to_one(make_tiny, params, tokens, judged) -> None:
    model = make_tiny(size=sizes.Size(WIDTH, DEPTH, HEADS, 64), cls_key=False)
    scores = run(model.vision, params, tokens, True, method="encode").scores
    row = judged[1][..., 0, 1:]
    expected = (row / row.sum(axis=-1, keepdims=True)).mean(axis=(0, 2))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)


def test_scores_change_nothing_else(model, params, tokens) -> None:
    without = run(model.vision, params, tokens, method="encode")
    beside = run(model.vision, params, tokens, True, method="encode")
    np.testing.assert_allclose(without.patches, beside.patches, atol=float32(64, depth=DEPTH * LAYER_SUMS))


def test_ways_to_compute_the_layers_keep_values_and_gradients(make_tiny, params, tokens) -> None:
    def of(**way) -> tuple:
        tower = make_tiny(size=sizes.Size(WIDTH, DEPTH, HEADS, 64), **way).vision
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(run(tower, p, tokens, method="encode").patches ** 2)))(
            params
        )

    plain = of()
    for way in ({"remat": "dots"}, {"remat": "full"}, {"layers": "unrolled"}, {"layers": "unrolled", "remat": "dots"}):
        other = of(**way)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-4), plain, other)


@pytest.mark.parametrize(
    ("kind", "asked", "remat", "unrolled"),
    [
        ("", "auto", "none", False),
        ("cpu", "auto", "none", False),
        ("NVIDIA H100", "auto", "none", True),
        ("TPU v5", "auto", "none", False),
        ("TPU v5 lite", "auto", "full", False),
        ("TPU v6 lite", "auto", "full", False),
        ("TPU v6 lite", "none", "none", False),
        ("NVIDIA H100", "dots", "dots", True),
    ],
)
def test_what_a_device_computes_again(kind: str, asked: str, remat: str, unrolled: bool) -> None:
    platform = {"NVIDIA": "gpu", "TPU": "tpu"}.get(kind.split(" ")[0], "cpu")
    device = mock.Mock(jax.Device, platform=platform, device_kind=kind) if kind else None
    model = towers.build_model(ModelConfig(vision_size="Mu", report_size="Mu", remat=asked), 100, device)
    for tower in (model.vision, model.report):
        assert (tower.remat, tower.unrolled) == (remat, unrolled)


def test_image_tokens_are_a_convolution_plus_positions(model, params) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64)).astype(np.float32)
    kernel = params["patch_2d"]["kernel"].T.reshape(WIDTH, 1, 16, 16)
    theirs = functional.conv2d(tensor(image[:, None]), tensor(kernel), tensor(params["patch_2d"]["bias"]), 16)
    theirs = theirs.flatten(2).transpose(1, 2).numpy() + params["position_2d"].reshape(1, 16, WIDTH)
    pixels = jnp.asarray(patches.patchify(image, (16, 16)))
    actual = run(model.vision, params, pixels, method="embed_image")
    np.testing.assert_allclose(actual, theirs, atol=1e-4)


def test_volume_tokens_are_a_convolution_plus_positions(model, params) -> None:
    volume = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32)).astype(np.float32)
    kernel = params["patch_3d"]["kernel"].T.reshape(WIDTH, 1, 4, 16, 16)
    theirs = functional.conv3d(
        tensor(volume[:, None]), tensor(kernel), tensor(params["patch_3d"]["bias"]), stride=(4, 16, 16)
    )
    theirs = theirs.flatten(2).transpose(1, 2).numpy() + params["position_3d"].reshape(1, 16, WIDTH)
    voxels = jnp.asarray(patches.patchify(volume, (4, 16, 16)))
    actual = run(model.vision, params, voxels, method="embed_volume")
    np.testing.assert_allclose(actual, theirs, atol=1e-4)


def test_one_channel_equals_rgb_on_replicated_grey() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.standard_normal((8, 3, 16, 16)).astype(np.float32)
    grey = rng.uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    theirs = functional.conv2d(tensor(grey[:, None]).expand(2, 3, 32, 32), tensor(rgb), stride=16)
    ours = patches.patchify(grey, (16, 16)) @ rgb.sum(axis=1).reshape(8, -1).T
    np.testing.assert_allclose(ours, theirs.flatten(2).transpose(1, 2).numpy(), atol=1e-3)


def test_a_volume_constant_in_each_layer_gives_tokens_constant_in_each_layer(model, params) -> None:
    volume = np.broadcast_to(np.linspace(-1, 1, 4).repeat(4)[None, :, None, None], (1, 16, 32, 32))
    voxels = jnp.asarray(patches.patchify(volume.astype(np.float32), (4, 16, 16)))
    flat = {**params, "position_3d": 0 * params["position_3d"]}
    layers = run(model.vision, flat, voxels, method="embed_volume").reshape(4, 4, WIDTH)
    np.testing.assert_allclose(layers, np.broadcast_to(layers[:, :1], layers.shape), atol=1e-5)
    assert np.abs(np.diff(layers[:, 0], axis=0)).max() > 0.1


@pytest.mark.parametrize("grid", [(4, 4), (7, 6)])
def test_image_positions_are_resized_like_torch(model, params, grid: tuple[int, int]) -> None:
    still = {**params, "patch_2d": jax.tree.map(jnp.zeros_like, params["patch_2d"])}
    pixels = jnp.zeros((1, grid[0] * grid[1], 256))
    actual = run(model.vision, still, pixels, grid, method="embed_image")[0]
    table = tensor(params["position_2d"]).permute(2, 0, 1)[None]
    # antialias picks the cubic kernel that JAX has (a = -0.5); growing, it smooths nothing.
    theirs = functional.interpolate(table, grid, mode="bicubic", antialias=True)[0]
    np.testing.assert_allclose(actual, theirs.flatten(1).T.numpy(), atol=1e-5)
    if grid == (4, 4):
        np.testing.assert_array_equal(actual, params["position_2d"].reshape(16, WIDTH))


@pytest.mark.parametrize("grid", [(4, 2, 2), (8, 4, 5), (3, 2, 2)])
def test_volume_positions_are_resized_like_torch(model, params, grid) -> None:
    still = {**params, "patch_3d": jax.tree.map(jnp.zeros_like, params["patch_3d"])}
    voxels = jnp.zeros((1, int(np.prod(grid)), 1024))
    actual = run(model.vision, still, voxels, grid, method="embed_volume")[0]
    table = tensor(params["position_3d"]).permute(3, 0, 1, 2)[None]
    theirs = functional.interpolate(table, grid, mode="trilinear", align_corners=False)[0]
    np.testing.assert_allclose(actual, theirs.flatten(1).T.numpy(), atol=1e-5)


def test_the_mask_token_hides_the_content_and_keeps_the_position(model, params) -> None:
    pixels = jax.random.normal(jax.random.key(0), (2, 16, 256))
    hidden = jnp.zeros((2, 16), bool).at[0, 3].set(True)
    actual = run(model.vision, params, pixels, None, hidden, method="embed_image")
    whole = run(model.vision, params, pixels, method="embed_image")
    expected = params["mask_token"] + params["position_2d"].reshape(16, WIDTH)[3]
    np.testing.assert_allclose(actual[0, 3], expected, atol=1e-6)
    rest = ~np.asarray(hidden)
    np.testing.assert_array_equal(np.asarray(actual)[rest], np.asarray(whole)[rest])


def test_type_and_slice_embeddings_are_added(make_tiny, random_params) -> None:
    model = make_tiny(type_embedding=True, slice_embedding=True)
    params = random_params(model)["vision"]
    pixels, layers = jnp.ones((1, 2, 16, 256)), jnp.array([[1, 3]])
    slices = run(model.vision, params, pixels, layers, method="embed_slices").reshape(2, 16, WIDTH)
    plain = run(model.vision, params, pixels[:, 0], method="embed_image")
    for actual, layer in zip(slices, (1, 3), strict=True):
        expected = plain[0] + params["depth_of_slice"][layer][None]
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    untyped = {**params, "type_2d": 0 * params["type_2d"], "type_3d": 0 * params["type_3d"]}
    difference = plain - run(model.vision, untyped, pixels[:, 0], method="embed_image")
    np.testing.assert_allclose(difference[0], np.tile(params["type_2d"], (16, 1)), atol=float32(256))
    voxels = jnp.ones((1, 16, 1024))
    difference = run(model.vision, params, voxels, method="embed_volume")
    difference -= run(model.vision, untyped, voxels, method="embed_volume")
    np.testing.assert_allclose(difference[0], np.tile(params["type_3d"], (16, 1)), atol=float32(1024))


def test_counts_of_vit_b() -> None:
    model = towers.build_model(ModelConfig(), 100)
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))["params"]["vision"]
    assert trees.count(shapes["trunk"]["blocks"]) == 12 * 7_087_872
    assert trees.count(shapes["patch_3d"]) == 787_200
    assert trees.count(shapes["position_3d"]) == 393_216
    one_channel = 256 * 768 + 768
    assert trees.count(shapes["patch_2d"]) == one_channel
    parts = ("trunk", "cls", "position_cls", "position_2d", "patch_2d")
    rgb = 2 * 256 * 768  # timm's kernel has two channels more
    assert sum(trees.count(shapes[name]) for name in parts) + rgb == 85_798_656


def test_width_must_divide_by_the_heads(make_tiny, tokens) -> None:
    model = make_tiny(size=sizes.Size(WIDTH, 1, 5, 64))
    with pytest.raises(ValueError, match="not divisible by 5 heads"):
        model.vision.init(jax.random.key(0), tokens, method="encode")
    with pytest.raises(ValueError, match="layers must be one of"):
        make_tiny(layers="some")
    with pytest.raises(ValueError, match="remat must be one of"):
        make_tiny(remat="some").vision.init(jax.random.key(0), tokens, method="encode")


@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4)])
def test_sincos_positions_are_alike_by_their_distance_alone(grid: tuple[int, ...]) -> None:
    table = np.asarray(vision.sincos(grid, 26)).reshape(-1, 26)
    where = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(grid))
    count = 26 // (2 * len(grid))
    frequencies = 100.0 ** -(np.arange(count) / count)
    apart = (where[:, None] - where[None])[..., None] * frequencies
    np.testing.assert_allclose(table @ table.T, np.cos(apart).sum((-2, -1)), atol=float32(26, scale=12))
    np.testing.assert_array_equal(table[:, 2 * count * len(grid) :], 0)


def test_position_tables_start_as_configured(make_tiny) -> None:
    model = make_tiny(size=sizes.Size(WIDTH, 1, 4, 64), position_init="sincos")
    params = jax.jit(lambda: towers.init(model, jax.random.key(0)))()["params"]["vision"]
    for name, grid in (("position_2d", model.vision.image_grid), ("position_3d", model.vision.volume_grid)):
        np.testing.assert_array_equal(params[name], vision.sincos(grid, WIDTH))
    with pytest.raises(ValueError, match="position_init must be one of"):
        jax.eval_shape(lambda: towers.init(make_tiny(position_init="cosine"), jax.random.key(0)))
