"""KAD: what the query network asks, of whom, and what it trains. Its losses' twins: test_medklip.py, test_losses.py."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from unimedi_jax.models import sizes
from unimedi_jax.objectives import common, entities, kad

OBJECTIVE = kad.Objective(entities=6, depth=1, weight_vl=2.0, weight_report=0.5)
NAMES = ("vl", "image", "report")


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny(size=sizes.Size(32, 1, 4, 64), objective=OBJECTIVE, projection="linear")


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model)


@pytest.fixture(scope="module")
def run(model, params):
    """`run(batch, grad)`: (loss, (metrics, new statistics)) and, if asked, the gradients."""

    def loss(params, batch):
        stats = {"batch_stats": {}}
        return OBJECTIVE.loss(params, {}, stats, batch, jax.random.key(3), jnp.int32(0), model=model)

    plain, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda batch, grad=False: (both if grad else plain)(params, batch)


@pytest.mark.parametrize(("xrays", "cts"), [(4, 0), (0, 4)])
def test_one_modality_alone_gives_a_finite_loss(run, model, make_batch, xrays: int, cts: int) -> None:
    value, (metrics, new) = run(make_batch(model, xrays, cts))
    kind = "xray" if xrays else "ct"
    assert metrics.keys() == {"loss", *(f"{part}/{name}" for part in (kind, "loss") for name in NAMES)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, metrics, new)))


def test_a_mixed_batch_trains_everything(run, model, make_batch) -> None:
    (value, (metrics, _)), grads = run(make_batch(model, 4, 3), grad=True)
    assert value.dtype == jnp.float32
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, metrics, grads)))
    total = sum(getattr(OBJECTIVE, f"weight_{name}") * metrics[f"loss/{name}"].value for name in NAMES)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    for part in ("head_decoder", "head_presence", "project_image", "project_report"):
        assert all(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for kernel in ("patch_2d", "patch_3d"):
        assert grads["vision"][kernel]["kernel"].any()


def test_one_network_is_asked_of_images_and_of_reports(run, model, params, make_batch) -> None:
    """Both losses again, from the parts: each entity, read as a word behind [CLS], asked of either side."""
    batch = make_batch(model, 4, 0)
    metrics = run(batch)[1][0]
    text, mask = common.reports(batch)

    @jax.jit
    def again():
        def apply(*x, method):
            return model.apply({"params": params}, *x, method=method)

        found = entities.find(text, mask, 50, 6)
        queries = jnp.concatenate(
            [apply(jnp.stack([text[0, 0], token])[None], jnp.ones((1, 2), bool), method="read") for token in found.ids]
        )
        patches = apply(apply(batch["xray"]["tokens"], method="embed_xray"), method="encode").patches
        report = apply(text, mask, method="read")[:, None]
        logits = [
            apply("presence", apply("decoder", memory, queries, side, method="through"), method="through")[..., 0]
            for memory, side in ((patches, "image"), (report, "report"))
        ]
        return found, logits

    found, logits = again()
    assert found.telling.all()
    for side, asked in zip(("image", "report"), logits, strict=True):
        expected = optax.sigmoid_binary_cross_entropy(asked, found.present).mean()
        np.testing.assert_allclose(metrics[f"xray/{side}"].value, expected, rtol=1e-4)
    assert abs(metrics["xray/image"].value - metrics["xray/report"].value) > 1e-3


@pytest.mark.parametrize("wrong", [{"entities": 0}, {"depth": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        kad.Objective(**wrong)


def test_more_entities_than_tokens_are_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="entities=51"):
        make_tiny(objective=kad.Objective(entities=51))
