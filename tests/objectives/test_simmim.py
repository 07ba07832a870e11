"""SimMIM: what is hidden, the distance over it, and the presets in 2D, in 3D and both."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import pretrain
from tests.objectives import trial
from unimedi_jax import objectives
from unimedi_jax.objectives import common, masked, simmim
from unimedi_jax.objectives.simmim import Objective

OBJECTIVE = Objective()


def test_hidden_blocks_are_whole_and_of_the_asked_number() -> None:
    hidden = np.asarray(masked.random_block_mask(jax.random.key(0), 200, (6, 4), 0.6, 2)).reshape(200, 3, 2, 2, 2)
    blocks = hidden[:, :, 0, :, 0]
    np.testing.assert_array_equal(hidden, np.broadcast_to(blocks[:, :, None, :, None], hidden.shape))
    assert set(blocks.sum(axis=(1, 2))) == {4}, "ceil(0.6 * 6)"
    assert np.abs(blocks.mean(axis=0) - 4 / 6).max() < 0.15, "every place alike"
    volume = np.asarray(masked.random_block_mask(jax.random.key(0), 3, (4, 2, 2), 0.5, 2)).reshape(3, 2, 2, 2, 2)
    assert set(volume.sum(axis=(2, 3, 4)).ravel()) == {0, 8}


@pytest.mark.parametrize(("ratio", "count"), [(0.6, 30), (0.3, 15), (0.02, 1)])
def test_a_grid_that_does_not_divide_is_hidden_by_tokens(ratio: float, count: int) -> None:
    hidden = np.asarray(masked.random_block_mask(jax.random.key(0), 50, (7, 7), ratio, 2))
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
    errors = simmim.masked_absolute_error(jnp.asarray(predicted), jnp.asarray(pixels), jnp.asarray(hidden))
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
    slope = jax.grad(lambda x: simmim.masked_absolute_error(x, jnp.asarray(pixels), jnp.asarray(hidden)).sum())
    np.testing.assert_allclose(slope(jnp.asarray(predicted)), gradient, atol=1e-6)
    assert not np.asarray(
        simmim.masked_absolute_error(jnp.asarray(pixels), jnp.asarray(pixels), jnp.asarray(hidden))
    ).any()


@pytest.mark.parametrize(("xrays", "cts"), [(3, 2), (3, 0), (0, 2)])
def test_one_modality_or_both(model, networks, make_batch, xrays: int, cts: int) -> None:
    batch = make_batch(model, xrays, cts)
    value, metrics, _, gradient = trial.gradients(model, Objective(), networks, batch)
    assert metrics.keys() == {"loss", "loss/mim", *(f"{name}/mim" for name in batch)}

    def predictions(student):
        parts = {}
        for name, part in batch.items():
            pixels = student.pixels(name, part["tokens"])
            key = student.make_rng("draws")
            mask = masked.random_block_mask(key, len(pixels), common.grid(student, name), 0.6, 2)
            parts[name] = pixels, mask, simmim.predict_pixels(student, name, pixels, mask)
        return parts

    each = []
    for name, parts in jax.device_get(trial.bound(model, networks.params, predictions)).items():
        assert parts[1].sum() == {"xray": 12 * xrays, "ct": 16 * cts}[name], "3 of 4 blocks; of 2 blocks both"
        each += [np.abs(predicted - pixels)[mask].mean() for pixels, mask, predicted in zip(*parts, strict=True)]
    assert float(value) == pytest.approx(np.mean(each), rel=1e-4)
    of_modality = {f"vision/{part}_{2 if name == 'xray' else 3}d" for name in batch for part in ("patch", "position")}
    shared = {f"vision/{part}" for part in ("cls", "position_cls", "trunk", "mask_token")}
    reached = shared | of_modality | {f"head_pixels_{name}" for name in batch}
    unmasked = {f"vision/patch_{3 if cts else 2}d"} if cts else set()  # both blocks of a volume are masked
    assert trial.reached(gradient) == reached - unmasked


def test_masked_pixels_do_not_reach_the_encoder(model, networks, make_batch) -> None:
    mask = masked.random_block_mask(jax.random.key(0), 2, (4, 4), 0.5, 2)
    pixels = model.pixels("xray", make_batch(model, 2, 0)["xray"]["tokens"])

    @jax.jit
    def predict(pixels):
        return trial.bound(model, networks.params, lambda net: simmim.predict_pixels(net, "xray", pixels, mask))

    before = predict(pixels)
    np.testing.assert_array_equal(predict(jnp.where(mask[..., None], -pixels, pixels)), before)
    assert np.abs(predict(jnp.where(mask[..., None], pixels, -pixels)) - before).max() > 1e-3


@pytest.mark.parametrize("settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"block": 0}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)


@pytest.mark.parametrize("name", ["simmim", "mae", "mrm"])
def test_the_full_presets_have_the_objectives_own_settings(name: str) -> None:
    config = pretrain.get_config(name)
    assert objectives.make(**config.objective) == objectives.make(name), "the papers' values are the defaults"
