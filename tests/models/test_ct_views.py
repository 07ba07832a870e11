"""What T_2D takes of a CT: slices from finer planes, the view from the front; and what their choice is measured by."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax import patches, selection
from unimedi_jax.config.objectives import Contrast
from unimedi_jax.config.pretraining import ModelConfig, PretrainConfig
from unimedi_jax.input import transforms
from unimedi_jax.models import inputs, scores, towers

torch = pytest.importorskip("torch")
PLANE, PATCH, FINE = (64, 64), (4, 16, 16), (4, 32, 32)
WINDOW = (-1000.0, 1000.0)


@pytest.fixture(scope="module")
def record() -> np.ndarray:
    """Two CTs of a record's planes, twice as fine as the volume of the tiny model."""
    return np.random.default_rng(0).integers(-1200, 1200, (2, 16, *PLANE)).astype(np.int16)


@pytest.fixture(scope="module")
def model(make_tiny) -> towers.UniMedI:
    return make_tiny(slice_source=PLANE, frontal_view=True)


@pytest.fixture(scope="module")
def variables(model, random_params):
    return {"params": random_params(model)}


def run(model, variables, *args, method: str) -> np.ndarray:
    return np.asarray(jax.jit(lambda v, a: model.apply(v, *a, method=method))(variables, args))


def fine_tokens(record: np.ndarray) -> np.ndarray:
    """As the input pipeline makes them."""
    size, patch = ModelConfig(volume_size=(16, 32, 32), volume_patch=PATCH, slice_source=PLANE).ct_input
    assert (size, patch) == ((16, *PLANE), FINE)
    return np.stack([transforms.to_tokens(volume, size, patch) for volume in record])


def test_the_volume_is_what_the_pipeline_shrinks_it_to(model, variables, record) -> None:
    own = np.stack([transforms.to_tokens(volume, (16, 32, 32), PATCH) for volume in record])
    shrunk = inputs.mean_in_plane(jnp.asarray(fine_tokens(record)), PATCH, FINE)
    assert shrunk.dtype == own.dtype
    np.testing.assert_array_equal(shrunk, own)
    ours, expected = (run(model, variables, x, method="embed_volume") for x in (fine_tokens(record), own))
    np.testing.assert_array_equal(ours, expected)


def test_slices_are_those_of_the_record(model, variables, record) -> None:
    layers = np.array([[0, 2], [1, 3]])
    actual = run(model, variables, fine_tokens(record), jnp.asarray(layers), method="embed_ct")
    for sample, pair in enumerate(layers):
        for i, layer in enumerate(pair):
            plane = np.clip(record[sample, layer * 4 + 2].astype(np.float32), *WINDOW) / 1000
            pixels = jnp.asarray(patches.patchify(plane[None], (16, 16)))
            tower = {"params": variables["params"]["vision"]}
            expected = model.vision.apply(tower, pixels, method="embed_image")[0]
            np.testing.assert_allclose(
                actual[sample, 16 * (1 + i) : 16 * (2 + i)], expected, atol=float32(256, scale=np.abs(expected).max())
            )
    volume = run(model, variables, fine_tokens(record), method="embed_volume")
    np.testing.assert_allclose(actual[:, 48:], volume, atol=float32(1024))
    assert actual.shape[1] == model.tokens_2d + 16 == 64


def test_the_frontal_view_is_mean_attenuation_from_the_front(record) -> None:
    view = np.maximum(1 + record.astype(np.float64) / 1000, 0).mean(axis=2)[:, ::-1]
    low, high = view.min(axis=(1, 2), keepdims=True), view.max(axis=(1, 2), keepdims=True)
    view = (view - low) / (high - low) * 2 - 1
    theirs = torch.nn.functional.interpolate(
        torch.tensor(view[:, None].copy()), (48, 48), mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    ours = jax.jit(lambda x: inputs.frontal_patches(x, 48, (16, 16)))(record)
    ours = patches.unpatchify(np.asarray(ours), (3, 3), (16, 16))
    # JAX normalises the triangle's weights, PyTorch too: float32 against float64.
    np.testing.assert_allclose(ours, theirs.numpy(), atol=float32(64, scale=4))
    heavy = np.full((1, 16, 8, 16), -1000, np.int16)
    heavy[0, -1, :, 3] = 40  # dense, at the head's end
    bright = patches.unpatchify(np.asarray(inputs.frontal_patches(jnp.asarray(heavy), 16, (16, 16))), (1, 1), (16, 16))
    assert np.unravel_index(bright[0].argmax(), (16, 16)) == (0, 3)
    assert np.isfinite(inputs.frontal_patches(jnp.zeros((1, 4, 4, 4)), 4, (4, 4))).all()


def test_the_view_precedes_the_slices_and_can_be_hidden(model, variables, record, make_tiny) -> None:
    tokens, layers = fine_tokens(record), jnp.array([[0, 1], [2, 3]])
    hidden = np.zeros((2, 64), bool)
    hidden[:, [3, 20, 60]] = True
    whole = run(model, variables, tokens, layers, method="embed_ct")
    partly = run(model, variables, tokens, layers, jnp.asarray(hidden), method="embed_ct")
    changed = np.abs(partly - whole).max(axis=-1) > 1e-3
    np.testing.assert_array_equal(changed, hidden)
    slices_alone = run(make_tiny(slice_source=PLANE), variables, tokens, layers, method="embed_ct")
    np.testing.assert_allclose(whole[:, 16:], slices_alone, atol=float32(1024))
    view = inputs.frontal_patches(jnp.asarray(record), 64, (16, 16))
    tower = {"params": variables["params"]["vision"]}
    expected = model.vision.apply(tower, view, method="embed_image")
    np.testing.assert_allclose(whole[:, :16], expected, atol=float32(256, scale=4))


def test_planes_of_the_volume_itself_are_the_default(make_tiny) -> None:
    plain, own = make_tiny(), make_tiny(slice_source=(32, 32))
    assert plain == own
    assert plain.ct_patch == plain.volume_patch
    assert plain.tokens_2d == 32


def test_a_baseline_follows_the_mean_score_of_each_layer(make_tiny, make_batch) -> None:
    model = make_tiny(slice_baseline=0.75)
    variables = jax.jit(lambda: towers.init(model, jax.random.key(0)))()
    np.testing.assert_array_equal(variables["batch_stats"]["slice_baseline"]["mean"], np.zeros(4))
    drawn = np.random.default_rng(0).uniform(0, 1, (2, 3, 4)).astype(np.float32)
    bound = lambda m, x: m.slice_baseline.update(x)  # noqa: E731
    for batch in drawn:
        _, updated = model.apply(variables, jnp.asarray(batch), method=bound, mutable=["batch_stats"])
        variables = {**variables, **updated}
    mean = variables["batch_stats"]["slice_baseline"]["mean"]
    expected = 0.25 * drawn[1].mean(axis=0) + 0.75 * 0.25 * drawn[0].mean(axis=0)
    np.testing.assert_allclose(mean, expected, atol=float32(4))
    tokens = make_batch(model, 0, 3)["ct"]["tokens"]
    features = jax.jit(lambda v, x: model.apply(v, x, method="ct_features"))(variables, tokens)
    volume = run(model, variables, tokens, method="embed_volume")
    raw = model.apply(variables, jnp.asarray(volume), True, method="encode").scores
    above = np.asarray(selection.slice_scores(raw, 4)) - np.asarray(mean)
    np.testing.assert_allclose(features.slice_scores, above, atol=float32(64))
    np.testing.assert_array_equal(features.layers, np.sort(np.argsort(-above, axis=1)[:, :2], axis=1))


def test_initialisation_leaves_no_scores_in_a_baseline() -> None:
    module = scores.SliceBaseline(4, 0.5)
    variables = module.init(jax.random.key(0), jnp.ones((2, 4)), method="update")
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(slice_source=(100, 128)), r"slice_source=\(100, 128\) is no multiple of the planes"),
        (dict(slice_source=(64, 64)), "is no multiple"),
        (dict(slice_source=(256, 256), slices=0), "take config.model.slices above 0"),
        (dict(frontal_view=True, slices=0), "take config.model.slices above 0"),
        (dict(slice_baseline=0.9, slices=0), "take config.model.slices above 0"),
        (dict(slice_baseline=1.0), "from 0 to below 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig(**settings)


def test_other_objectives_have_no_use_for_finer_planes() -> None:
    with pytest.raises(ValueError, match=r"are for UniMedI's objective.*contrast's"):
        PretrainConfig(model=ModelConfig(frontal_view=True), objective=Contrast())
