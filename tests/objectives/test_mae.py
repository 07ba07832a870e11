"""Masked autoencoders: tokens go and come back, targets are normalised, and only what was dropped is judged."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.models import sizes, vision
from unimedi_jax.objectives import mae, masked
from unimedi_jax.objectives.mae import Objective

SIZE = sizes.Size(32, 1, 4, 64)
OBJECTIVE = Objective(decoder_width=24, decoder_depth=1, decoder_heads=2)


def test_every_token_comes_back_to_its_place() -> None:
    ranks = masked.random_ranks(jax.random.key(0), 5, 9)
    np.testing.assert_array_equal(np.sort(ranks, axis=1), np.broadcast_to(np.arange(9), (5, 9)))
    visible = np.argsort(ranks, axis=1)[:, :4]
    tokens = np.random.default_rng(0).standard_normal((5, 9, 3)).astype(np.float32)
    encoded = mae.EncodedVisible(jnp.zeros((5, 3)), jnp.asarray(tokens[np.arange(5)[:, None], visible]), ranks)
    dropped = np.ones((5, 9), bool)
    dropped[np.arange(5)[:, None], visible] = False
    np.testing.assert_array_equal(encoded.dropped, dropped)
    token = np.array([7.0, 8.0, 9.0], np.float32)
    sequence = mae.insert_mask_tokens(encoded.patches, jnp.asarray(token), ranks)
    np.testing.assert_array_equal(sequence, np.where(dropped[..., None], token, tokens))
    assert len(np.unique(dropped, axis=0)) > 1, "drawn for every sample"


def test_targets_are_normalised_by_patch() -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 50)).astype(np.float32)
    pixels[0, 1] = -1.0  # air
    expected = (pixels - pixels.mean(axis=-1, keepdims=True)) / np.sqrt(pixels.var(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(mae.normalise_patches(jnp.asarray(pixels)), expected, atol=1e-5)
    assert not expected[0, 1].any()


def test_the_error_is_of_what_was_dropped_alone() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.standard_normal((2, 3, 8, 5)).astype(np.float32)
    hidden = rng.random((3, 8)) < 0.7
    expected, gradient = [], np.zeros_like(predicted)
    for i in range(3):
        squares = [(predicted[i, n] - target[i, n]) ** 2 for n in range(8) if hidden[i, n]]
        expected.append(np.mean(squares))
        gradient[i, hidden[i]] = 2 * (predicted - target)[i, hidden[i]] / (5 * hidden[i].sum())
    arrays = [jnp.asarray(x) for x in (predicted, target, hidden)]
    np.testing.assert_allclose(mae.masked_squared_error(*arrays), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda *x: mae.masked_squared_error(*x).sum())(*arrays), gradient, atol=1e-6)
    assert not np.asarray(mae.masked_squared_error(arrays[1], arrays[1], arrays[2])).any()
    mean = mae.masked_squared_error(
        jnp.zeros((1, 8, 50)), mae.normalise_patches(jax.random.normal(jax.random.key(0), (1, 8, 50))), hidden[:1]
    )
    assert float(mean[0]) == pytest.approx(1.0, rel=1e-3), "predicting the mean is wrong by the variance"


@pytest.mark.parametrize(("xrays", "cts"), [(3, 2), (3, 0), (0, 2)])
def test_one_modality_or_both(model, networks, make_batch, xrays: int, cts: int) -> None:
    batch = make_batch(model, xrays, cts)
    value, metrics, _, gradient = trial.gradients(model, OBJECTIVE, networks, batch)
    assert metrics.keys() == {"loss", "loss/mim", *(f"{name}/mim" for name in batch)}
    assert float(metrics["loss/mim"].value) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["loss/mim"].weight) == xrays + cts
    of_modality = {f"vision/{part}_{2 if name == 'xray' else 3}d" for name in batch for part in ("patch", "position")}
    shared = {f"vision/{part}" for part in ("cls", "position_cls", "trunk")}
    assert trial.reached(gradient) == {"head_decoder"} | shared | of_modality, "and not the encoder's mask token"
    decoder = gradient["head_decoder"]
    assert decoder["mask_token"].any()
    assert decoder["pixels_xray"]["kernel"].any() == (xrays > 0)
    assert decoder["pixels_ct"]["kernel"].any() == (cts > 0)


def test_the_encoder_sees_a_quarter_and_the_decoder_all(model, networks, make_batch) -> None:
    batch = make_batch(model, 3, 2)
    assert trial.passes(model, OBJECTIVE, networks, batch) == [(2, 5), (2, 17), (3, 5), (3, 17)]


def test_the_loss_is_put_together_from_its_parts(model, networks, make_batch) -> None:
    """Once more by hand: visible tokens in their order, through the encoder, back among masks, against the pixels."""
    tokens = make_batch(model, 2, 0)["xray"]["tokens"]
    params = networks.params

    def losses(student):
        encoded = mae.encode_visible(student, "xray", tokens, 0.75)
        return encoded.ranks, [
            mae.reconstruction_loss(student, "xray", tokens, encoded, norm) for norm in (True, False)
        ]

    ranks, (normed, plain) = jax.device_get(trial.bound(model, params, losses))
    visible = np.argsort(ranks, axis=1)[:, :4]
    decoder = params["head_decoder"]

    def apply(params):
        whole = model.apply({"params": params}, tokens, method="embed_xray")
        encoded = model.apply({"params": params}, whole[np.arange(2)[:, None], visible], method="encode")
        x = jnp.concatenate([encoded.cls[:, None], encoded.patches], axis=1)
        x = x @ decoder["embed"]["kernel"] + decoder["embed"]["bias"][None, None]
        rows = jnp.broadcast_to(decoder["mask_token"], (2, 16, 24)).at[np.arange(2)[:, None], visible].set(x[:, 1:])
        rows += vision.sincos((4, 4), 24).reshape(1, 16, 24)
        trunk = vision.Trunk(24, 1, 2, 96, jnp.float32)
        x = trunk.apply({"params": decoder["trunk"]}, jnp.concatenate([x[:, :1], rows], axis=1), False)[0][:, 1:]
        return x @ decoder["pixels_xray"]["kernel"] + decoder["pixels_xray"]["bias"][None, None]

    predicted = np.asarray(jax.jit(apply)(params))
    pixels = np.asarray(tokens) / 127.5 - 1
    patches = (pixels - pixels.mean(axis=-1, keepdims=True)) / np.sqrt(pixels.var(axis=-1, keepdims=True) + 1e-6)
    for target, loss in ((patches, normed), (pixels, plain)):
        each = ((predicted - target) ** 2).mean(axis=-1)
        np.testing.assert_allclose(loss, [each[i][ranks[i] >= 4].mean() for i in range(2)], rtol=1e-3)


def test_the_gradient_is_of_the_visible_tokens_alone(model, networks, make_batch) -> None:
    tokens = make_batch(model, 1, 0)["xray"]["tokens"]

    def loss(student):
        encoded = mae.encode_visible(student, "xray", tokens, 0.75)
        return mae.reconstruction_loss(student, "xray", tokens, encoded, True).sum(), encoded.dropped

    grads, dropped = jax.grad(lambda params: trial.bound(model, params, loss), has_aux=True)(networks.params)
    moved = np.asarray(grads["vision"]["position_2d"]).reshape(16, 32).any(axis=1)
    np.testing.assert_array_equal(moved, ~np.asarray(dropped[0]))


@pytest.mark.parametrize(
    "settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"decoder_width": 20, "decoder_heads": 3}]
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)
