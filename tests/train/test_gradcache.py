"""A batch in parts gives the loss, the metrics, the statistics and the gradients of the whole batch."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from unimedi_jax import sharding, trees
from unimedi_jax.models import towers
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import gradcache

pytestmark = pytest.mark.usefixtures("eight_devices")

SETTINGS = [{}, {"mask_mode": "mask_token", "contrastive_chunk": 12, "identical_reports": True}]


@pytest.fixture(scope="module")
def given(tiny, tiny_variables, random_tree, make_batch):
    """Student, a teacher that disagrees, statistics; a batch of 32 X-rays and 16 CTs."""
    student = tiny_variables["params"]
    teacher = {part: student[part] for part in ("vision", "head_cls", "head_patch")}
    teacher = random_tree(teacher, scale=0.02, around=1.0)
    stats = {
        "batch_stats": tiny_variables["batch_stats"],
        "centre_cls": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 24)),
        "centre_patch": dict.fromkeys(("xray", "ct"), jnp.linspace(-0.1, 0.1, 16)),
    }
    return (student, teacher, stats), make_batch(tiny, 32, 16)


def compiled(model: towers.UniMedI, given, parts: int, settings: dict) -> jax.stages.Compiled:
    objective = Objective(weight_vl=0.5, weight_icl=2.0, weight_pcl=3.0, **settings)

    def run(trees, batch):
        return gradcache.loss_and_grads(
            *trees, batch, jax.random.key(3), jnp.int32(0), parts=parts, model=model, objective=objective
        )

    return jax.jit(run).lower(*given).compile()


@pytest.mark.parametrize(("parts", "settings", "devices"), [(4, SETTINGS[0], 1), (2, SETTINGS[1], 8)])
def test_parts_give_what_the_whole_gives(tiny, given, parts: int, settings: dict, devices: int) -> None:
    """In parts on one device or on a mesh, the whole on one."""
    whole = compiled(tiny, given, 1, settings)
    mesh = sharding.make_mesh(fsdp=2) if devices > 1 else sharding.make_mesh(devices=jax.devices()[:1])
    networks, batch = given
    placed = jax.device_put(networks, jax.NamedSharding(mesh, jax.P())), sharding.put_batch(batch, mesh)
    with jax.set_mesh(mesh):
        divided = compiled(tiny, placed, parts, settings)
        (loss, aux), grads = jax.device_get(divided(*placed))
    (expected_loss, expected_aux), expected_grads = jax.device_get(whole(*given))
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    for name, ours, expected in zip(trees.names(aux), *map(jax.tree.leaves, (aux, expected_aux)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5, err_msg=name)
    length = float(jax.jit(optax.tree.norm)(expected_grads))
    for name, ours, expected in zip(trees.names(grads), *map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * length, rtol=1e-5, err_msg=name)
    # The rule for a batch of equal parts, without its negatives, would be off by log(parts).
    assert aux[0]["loss/vl"].value > np.log(48) - 0.5 * np.log(parts)
    if parts == 4:
        taken = [run.memory_analysis().temp_size_in_bytes for run in (divided, whole)]
        assert taken[0] < taken[1] / 2
