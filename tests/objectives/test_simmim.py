"""SimMIM: what is hidden, the distance over it, and the presets in 2D, in 3D and both."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import pretrain
from unimedi_jax import objectives
from unimedi_jax.models import sizes
from unimedi_jax.objectives import masked, simmim
from unimedi_jax.objectives.simmim import Objective

SIZE = sizes.Size(32, 1, 4, 64)


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny(size=SIZE, objective=Objective())


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model)


def test_hidden_blocks_are_whole_and_of_the_asked_number() -> None:
    hidden = np.asarray(masked.hide(jax.random.key(0), 200, (6, 4), 0.6, 2)).reshape(200, 3, 2, 2, 2)
    blocks = hidden[:, :, 0, :, 0]
    np.testing.assert_array_equal(hidden, np.broadcast_to(blocks[:, :, None, :, None], hidden.shape))
    assert set(blocks.sum(axis=(1, 2))) == {4}, "ceil(0.6 * 6)"
    assert np.abs(blocks.mean(axis=0) - 4 / 6).max() < 0.15, "every place alike"
    volume = np.asarray(masked.hide(jax.random.key(0), 3, (4, 2, 2), 0.5, 2)).reshape(3, 2, 2, 2, 2)
    assert set(volume.sum(axis=(2, 3, 4)).ravel()) == {0, 8}


@pytest.mark.parametrize(("ratio", "count"), [(0.6, 30), (0.3, 15), (0.02, 1)])
def test_a_grid_that_does_not_divide_is_hidden_by_tokens(ratio: float, count: int) -> None:
    hidden = np.asarray(masked.hide(jax.random.key(0), 50, (7, 7), ratio, 2))
    assert set(hidden.sum(axis=1)) == {count}
    assert len(np.unique(hidden, axis=0)) > 25, "drawn for every sample"


def test_the_distance_and_its_gradient_are_the_papers() -> None:
    rng = np.random.default_rng(0)
    predicted, pixels = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    hidden = rng.random((3, 5)) < 0.6
    hidden[2] = False
    expected, gradient = [], np.zeros_like(predicted)
    for i in range(3):
        values = [abs(predicted[i, n, v] - pixels[i, n, v]) for n in range(5) for v in range(4) if hidden[i, n]]
        expected.append(sum(values) / max(len(values), 1))
        gradient[i, hidden[i]] = np.sign(predicted - pixels)[i, hidden[i]] / max(len(values), 1)
    found = simmim.distance(jnp.asarray(predicted), jnp.asarray(pixels), jnp.asarray(hidden))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    slope = jax.grad(lambda x: simmim.distance(x, jnp.asarray(pixels), jnp.asarray(hidden)).sum())
    np.testing.assert_allclose(slope(jnp.asarray(predicted)), gradient, atol=1e-6)
    assert not np.asarray(simmim.distance(jnp.asarray(pixels), jnp.asarray(pixels), jnp.asarray(hidden))).any()


@pytest.mark.parametrize(("xrays", "cts"), [(3, 2), (3, 0), (0, 2)])
def test_one_modality_or_both(model, params, make_batch, xrays: int, cts: int) -> None:
    objective = Objective()
    batch = make_batch(model, xrays, cts)

    def loss(params):
        return objective.loss(params, {}, {"batch_stats": {}}, batch, jax.random.key(3), jnp.int32(0), model=model)

    (value, (metrics, stats)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert stats == {"batch_stats": {}}
    assert metrics.keys() == {"loss", "loss/mim", *(f"{name}/mim" for name in batch)}
    keys = dict(zip(("xray", "ct"), jax.random.split(jax.random.key(3)), strict=True))
    each = []
    for name, part in batch.items():
        pixels = model.pixels(name, part["tokens"])
        hidden = masked.hide(keys[name], len(pixels), masked.grid(name, model), 0.6, 2)
        assert hidden.sum() == {"xray": 12 * xrays, "ct": 16 * cts}[name], "3 of 4 blocks; of 2 blocks both"
        said = jax.jit(lambda p, name=name, x=pixels, h=hidden: simmim.predict(name, p, x, h, model=model))(params)
        where = np.asarray(hidden)
        each += [np.abs(said[i] - pixels[i])[where[i]].mean() for i in range(len(where))]
    assert float(value) == pytest.approx(np.mean(each), rel=1e-4)
    reached = {part: any(leaf.any() for leaf in jax.tree.leaves(grad)) for part, grad in grads.items()}
    assert reached == {
        "vision": True,
        "report": False,
        "project_image": False,
        "project_report": False,
        "head_pixels_xray": xrays > 0,
        "head_pixels_ct": cts > 0,
    }
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert grads["vision"]["mask_token"].any()


def test_what_is_hidden_is_not_seen(model, params, make_batch) -> None:
    tokens = make_batch(model, 2, 0)["xray"]["tokens"]
    hidden = masked.hide(jax.random.key(0), 2, (4, 4), 0.5, 2)
    predict = jax.jit(lambda pixels: simmim.predict("xray", params, pixels, hidden, model=model))
    pixels = model.pixels("xray", tokens)
    before = predict(pixels)
    np.testing.assert_array_equal(predict(jnp.where(hidden[..., None], -pixels, pixels)), before)
    assert np.abs(predict(jnp.where(hidden[..., None], pixels, -pixels)) - before).max() > 1e-3


@pytest.mark.parametrize("settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"block": 0}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)


@pytest.mark.parametrize("name", ["simmim", "mae", "mrm"])
def test_the_full_presets_have_the_objectives_own_settings(name: str) -> None:
    config = pretrain.get_config(name)
    assert objectives.make(**config.objective) == objectives.make(name), "the papers' values are the defaults"
