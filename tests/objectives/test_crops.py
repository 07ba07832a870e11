"""Views: what is cut where, by numpy and scipy; and a view of everything is the sample."""

import jax
import numpy as np
import pytest
import scipy.ndimage
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.config.objectives import Views
from unimedi_jax.objectives import common, crops

PLAIN = Views(crop_scale=(1.0, 1.0), crop_aspect=1.0, brightness=0.0, contrast=0.0, noise=0.0)
crop_and_resize = jax.jit(crops.crop_and_resize, static_argnums=3)
random_crops = jax.jit(crops.random_crops, static_argnums=(2, 3, 4, 5))
jitter = jax.jit(crops.jitter, static_argnums=2)
SPACES = [(20, 24), (8, 12, 16)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("space", SPACES)
def test_a_crop_of_everything_changes_nothing(space: tuple[int, ...]) -> None:
    x = noise(2, *space)
    views = random_crops(jax.random.key(0), jnp.asarray(x), PLAIN, 3)
    assert views.images.shape == (2, 3, *space)
    np.testing.assert_array_equal(views.low, 0)
    np.testing.assert_array_equal(views.size, 1)
    for view in range(3):
        np.testing.assert_allclose(views.images[:, view], x, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_a_box_of_whole_pixels_is_a_slice(space: tuple[int, ...]) -> None:
    x, rank = noise(2, *space), len(space)
    low = np.arange(1, rank + 1) / space
    size = np.full(rank, 0.5)
    shape = tuple(n // 2 for n in space)
    boxes = crop_and_resize(x, np.tile(low, (2, 1, 1)), np.tile(size, (2, 1, 1)), shape)
    inside = tuple(slice(i, i + n) for i, n in enumerate(shape, 1))
    np.testing.assert_allclose(boxes[:, 0], x[(slice(None), *inside)], atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_a_growing_box_is_what_scipy_makes_of_it(space: tuple[int, ...]) -> None:
    rng, rank = np.random.default_rng(1), len(space)
    x = noise(2, *space)
    size = rng.uniform(0.2, 0.6, (2, 2, rank))
    low = rng.uniform(0, 1, (2, 2, rank)) * (1 - size)
    low[0, 0] = 0  # at the edge
    boxes = crop_and_resize(x, low, size, space)
    for sample in range(2):
        for view in range(2):
            axes = [
                (np.arange(n) + 0.5) * size[sample, view, axis] + low[sample, view, axis] * n - 0.5
                for axis, n in enumerate(space)
            ]
            expected = scipy.ndimage.map_coordinates(
                x[sample], np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest"
            )
            np.testing.assert_allclose(boxes[sample, view], expected, atol=1e-4)


def test_a_shrinking_box_is_smoothed() -> None:
    x = noise(1, 16, 16)
    box = crop_and_resize(x, np.full((1, 1, 2), 0.125), np.full((1, 1, 2), 0.75), (4, 4))[0, 0]
    weights = np.zeros((4, 16))
    for out in range(4):
        centre = (out + 0.5) * 3 + 2 - 0.5
        weights[out] = np.maximum(0, 1 - np.abs(np.arange(16) - centre) / 3)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(box, weights @ x[0] @ weights.T, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 3])
def test_boxes_cover_what_they_should_and_stay_inside(rank: int) -> None:
    low, size = crops.random_boxes(jax.random.key(0), (500, 2), rank, (0.1, 0.5), 4 / 3)
    share = np.asarray(size).prod(axis=-1)
    assert 0.1 - 1e-5 <= share.min() < 0.12
    assert 0.48 < share.max() <= 0.5 + 1e-5
    assert low.min() >= 0
    assert (low + size).max() <= 1 + 1e-6
    stretched = np.asarray(size).max(axis=-1) / np.asarray(size).min(axis=-1)
    assert 1.25 < stretched.max() <= 4 / 3 + 1e-5
    assert np.abs(np.asarray(low / (1 - size)).mean(axis=(0, 1)) - 0.5).max() < 0.05
    assert np.unique(share).size > 990, "every view its own"


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_is_mirrored(axis: int) -> None:
    ramp = np.linspace(-0.5, 0.5, 32, dtype=np.float32)
    x = np.broadcast_to(ramp if axis else ramp[:, None], (8, 32, 32))
    settings = Views(crop_scale=(0.2, 1.0), noise=0.0)
    views = random_crops(jax.random.key(1), jnp.asarray(x), settings)
    assert np.diff(np.asarray(views.images), axis=2 + axis)[:, :, 8:24, 8:24].min() > 0


def test_light_changes_within_its_limits() -> None:
    x = jnp.asarray(noise(50, 2, 8, 8)) / 3
    np.testing.assert_allclose(jitter(jax.random.key(0), x, PLAIN), x, atol=1e-6)
    settings = Views(brightness=0.2, contrast=0.4, noise=0.0)
    changed = np.asarray(jitter(jax.random.key(0), x, settings))
    shift = (changed - x).mean(axis=(2, 3))
    factor = changed.std(axis=(2, 3)) / np.asarray(x).std(axis=(2, 3))
    assert 0.18 < np.abs(shift).max() <= 0.2001
    assert 0.6 - 1e-4 <= factor.min() < 0.65
    assert 1.35 < factor.max() <= 1.4 + 1e-4
    strong = jitter(jax.random.key(0), x, Views(brightness=0.9, contrast=0.9, noise=0.5))
    assert (float(strong.min()), float(strong.max())) == (-1.0, 1.0)


@pytest.mark.parametrize("name", ["xray", "ct"])
def test_tokens_of_a_view_are_in_the_units_of_a_batch(tiny, make_batch, name: str) -> None:
    tokens = make_batch(tiny, 2, 2)[name]["tokens"]
    again = crops.to_tokens(tiny, name, crops.to_image(tiny, name, tokens))
    assert again.dtype == tokens.dtype
    np.testing.assert_array_equal(again, tokens)


@pytest.mark.parametrize(("name", "grid"), [("xray", (4, 4)), ("ct", (4, 2, 2))])
def test_a_plane_view_is_a_box_of_the_plane_in_every_layer(tiny, make_batch, name: str, grid: tuple) -> None:
    tokens = make_batch(tiny, 3, 3)[name]["tokens"]
    plain = Views(crop_scale=(0.3, 0.8), brightness=0.0, contrast=0.0, noise=0.0)
    run = jax.jit(lambda tokens: crops.plane_view(jax.random.key(0), tiny, name, tokens, plain))
    view, (low, size) = run(tokens)
    assert view.shape == tokens.shape
    x, ours = (np.asarray(crops.to_image(tiny, name, part)) for part in (tokens, view))
    x, ours = (part.reshape(3, -1, *part.shape[-2:]) for part in (x, ours))
    axes = [
        (np.arange(n) + 0.5) * np.asarray(size)[:, 0, axis, None] + np.asarray(low)[:, 0, axis, None] * n - 0.5
        for axis, n in enumerate(ours.shape[2:])
    ]
    step = {"xray": 1 / 127.5, "ct": 1 / 1000}[name]  # of the batch's units
    for sample in range(3):
        where = np.meshgrid(axes[0][sample], axes[1][sample], indexing="ij")
        for layer in range(x.shape[1]):
            expected = scipy.ndimage.map_coordinates(x[sample, layer], where, order=1, mode="nearest")
            np.testing.assert_allclose(ours[sample, layer], expected, atol=step / 2 + 1e-4)


def test_what_lies_on_tokens_follows_them_into_a_view() -> None:
    """Of a picture without edges, the vectors of a view's patches are those that the whole's are cropped to."""
    patch, grid = (4, 4), (3, 8, 8)
    z, y, x = np.indices((3, 32, 32), np.float32)
    picture = np.stack([y + 2 * x + 5 * z, 3 * y - x])  # two samples
    boxes = np.asarray([[[0.25, 0.3]], [[0.2, 0.15]]]), np.asarray([[[0.5, 0.5]], [[0.6, 0.55]]])

    def vectors(picture: np.ndarray) -> np.ndarray:
        cells = picture.reshape(2, 3, 8, patch[0], 8, patch[1])
        mean, first = cells.mean(axis=(3, 5)), cells[:, :, :, 0, :, 0]
        return np.stack([mean, first], axis=-1).reshape(2, -1, 2).astype(np.float32)

    viewed = np.stack(
        [
            np.stack([scipy.ndimage.map_coordinates(layer, where(box, size), order=1, mode="nearest") for layer in one])
            for one, box, size in zip(picture, *boxes, strict=True)
        ]
    )
    ours = crops.crop_grid(jnp.asarray(vectors(picture)), grid, tuple(map(jnp.asarray, boxes)))
    np.testing.assert_allclose(ours[..., 0], vectors(viewed)[..., 0], atol=1e-3)
    assert np.abs(np.asarray(ours)[..., 1] - vectors(viewed)[..., 1]).max() > 0.1, "the corner lies elsewhere"


def where(low: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """Coordinates of a view of 32 x 32 pixels in the whole of as many."""
    axes = [(np.arange(32) + 0.5) * size[0, i] + low[0, i] * 32 - 0.5 for i in (0, 1)]
    return np.meshgrid(*axes, indexing="ij")


def test_slices_are_those_of_the_volume_in_their_order() -> None:
    x = jnp.asarray(noise(3, 16, 8, 8))
    slices, z = crops.random_slices(jax.random.key(0), x, 5, 8)
    assert (np.diff(z, axis=1) > 0).all()
    assert len(np.unique(z, axis=0)) == 3
    for sample in range(3):
        np.testing.assert_array_equal(slices[sample], x[sample][z[sample]])
    assert crops.random_slices(jax.random.key(0), x, 5, 24)[0].shape == (3, 5, 24, 24)
    with pytest.raises(ValueError, match="17 of a volume that has 16"):
        crops.random_slices(jax.random.key(0), x, 17, 8)


def test_sizes_are_whole_patches(tiny) -> None:
    assert crops.view_shape(tiny, "xray") == (64, 64)
    assert crops.view_shape(tiny, "ct") == (16, 32, 32)
    assert crops.view_shape(tiny, "xray", 0.5) == (32, 32)
    assert crops.view_shape(tiny, "ct", 0.1) == (4, 16, 16)


@pytest.mark.parametrize("name", ["xray", "ct"])
def test_a_view_of_everything_is_the_sample(tiny, random_params, make_batch, name: str) -> None:
    tokens = make_batch(tiny, 2, 2)[name]["tokens"]

    def cls(network):
        views = crops.random_crops(network.make_rng("draws"), crops.to_image(network, name, tokens), PLAIN)
        return crops.encode_views(network, views.images), network.encode(common.embed(network, name, tokens)).cls

    of_views, expected = trial.bound(tiny, random_params(tiny), cls)
    for view in range(2):
        np.testing.assert_allclose(of_views[:, view], expected, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.6, 0.5)},
        {"crop_scale": (0.5, 1.1)},
        {"crop_aspect": 0.9},
        {"brightness": -0.1},
        {"contrast": 1.0},
        {"noise": -0.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Views(**settings)
