"""ConVIRT and CLIP: the whole objective against PyTorch's cross-entropy on the same embeddings."""

import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from unimedi_jax.objectives import common, contrast

torch = pytest.importorskip("torch")
CONVIRT = contrast.Objective(temperature=0.1, image_weight=0.75)
CLIP = contrast.Objective(learn_temperature=True)


@pytest.fixture(scope="module")
def clip(make_tiny):
    return make_tiny(objective=CLIP, projection="linear")


@pytest.fixture(scope="module")
def params(clip, random_params):
    return random_params(clip, CLIP) | {"head_scale": {"log": jnp.float32(np.log(5.0))}}


def run(objective, model, params, batch):
    """Loss, metrics and gradients."""
    value, metrics, _, grads = trial.gradients(model, objective, trial.Networks(params, {}, {"batch_stats": {}}), batch)
    return value, metrics, grads


@pytest.mark.parametrize(("objective", "scale"), [(CONVIRT, 10.0), (CLIP, 5.0)])
def test_the_loss_is_that_of_torch_on_the_same_embeddings(clip, params, make_batch, objective, scale) -> None:
    batch = make_batch(clip, 3, 2)
    loss, metrics, grads = run(objective, clip, params, batch)

    def project(network):
        pairs = common.encode_pairs(network, batch)
        return pairs.z_image, pairs.z_text

    image, text = (torch.tensor(np.asarray(x)) for x in trial.bound(clip, params, project))
    logits = scale * image @ text.T
    own = torch.arange(5)
    to_report, to_image = (torch.nn.functional.cross_entropy(x, own, reduction="none") for x in (logits, logits.T))
    each = objective.image_weight * to_report + (1 - objective.image_weight) * to_image
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-5)
    assert float(metrics["xray/vl"].value) == pytest.approx(float(each[:3].mean()), rel=1e-5)
    assert float(metrics["ct/vl"].value) == pytest.approx(float(each[3:].mean()), rel=1e-5)
    learnt = float(jnp.abs(grads["head_scale"]["log"]))
    assert (learnt > 0) == objective.learn_temperature
    for name in ("patch_2d", "patch_3d"):
        assert jnp.abs(grads["vision"][name]["kernel"]).max() > 0


def test_one_modality_alone(clip, params, make_batch) -> None:
    for name, rows, silent in (("xray", (4, 0), "patch_3d"), ("ct", (0, 4), "patch_2d")):
        _, metrics, grads = run(CLIP, clip, params, make_batch(clip, *rows))
        assert {key for key in metrics if "/vl" in key} == {f"{name}/vl", "loss/vl"}
        assert not jnp.abs(grads["vision"][silent]["kernel"]).any()


def test_a_learnt_temperature_stays_above_a_hundredth(clip, params) -> None:
    cold = params | {"head_scale": {"log": jnp.float32(9.0)}}
    assert float(trial.bound(clip, cold, lambda network: network.head["scale"]())) == pytest.approx(100.0, rel=1e-5)
