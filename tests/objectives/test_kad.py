"""KAD: what the query network asks, of whom, and what it trains. Its losses' twins: test_medklip.py, test_losses.py."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.objectives import common, entities, kad

OBJECTIVE = kad.Objective(entities=6, depth=1, weight_vl=2.0, weight_report=0.5)
MODEL = dict(projection="linear")
NAMES = ("vl", "image", "report")


def test_one_modality_alone_gives_a_finite_loss(model, networks, make_batch) -> None:
    trial.assert_alone(model, OBJECTIVE, networks, make_batch(model, 4, 4), NAMES)


def test_a_mixed_batch_trains_everything(model, networks, make_batch) -> None:
    value, metrics, _, grads = trial.gradients(model, OBJECTIVE, networks, make_batch(model, 4, 3))
    trial.assert_weighted(OBJECTIVE, value, metrics, NAMES)
    for part in ("head_decoder", "head_presence", "project_image", "project_report"):
        assert all(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for kernel in ("patch_2d", "patch_3d"):
        assert grads["vision"][kernel]["kernel"].any()


def test_one_network_is_asked_of_images_and_of_reports(model, networks, make_batch) -> None:
    """Both losses again, from the parts: each entity, as a word behind [CLS], asked of either side."""
    batch = make_batch(model, 4, 0)
    _, (metrics, _) = jax.jit(trial.loss(model, OBJECTIVE))(*networks, batch)
    text, mask = common.reports(batch)

    def again(network):
        chosen = entities.choose(text, mask, 50, 6)
        words = [jnp.stack([text[0, 0], token])[None] for token in chosen.ids]
        queries = jnp.concatenate([network.encode_text(word, jnp.ones((1, 2), bool)) for word in words])
        patches = network.encode(network.embed_xray(batch["xray"]["tokens"])).patches
        report = network.encode_text(text, mask)[:, None]
        logits = [
            network.head["presence"](network.head["decoder"](memory, queries, side))[..., 0]
            for memory, side in ((patches, "image"), (report, "report"))
        ]
        return chosen, logits

    chosen, logits = trial.bound(model, networks.params, again)
    assert chosen.informative.all()
    for side, answers in zip(("image", "report"), logits, strict=True):
        expected = optax.sigmoid_binary_cross_entropy(answers, chosen.present).mean()
        np.testing.assert_allclose(metrics[f"xray/{side}"].value, expected, rtol=1e-4)
    assert abs(metrics["xray/image"].value - metrics["xray/report"].value) > 1e-3


@pytest.mark.parametrize("wrong", [{"entities": 0}, {"depth": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        kad.Objective(**wrong)


def test_more_entities_than_tokens_are_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="entities=51"):
        make_tiny(objective=kad.Objective(entities=51))
