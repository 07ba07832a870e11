"""Every objective tells the towers which of its X-rays are lateral: in whole films, in crops and in masked ones."""

import jax
import pytest
from jax import numpy as jnp

from configs import pretrain
from unimedi_jax import sharding
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.models import towers, vision
from unimedi_jax.objectives import base
from unimedi_jax.train.job import build_train_step

# All that embed X-rays in a way of their own; the others embed whole ones as "clip" does.
SYSTEMS = ("unimedi", "clip", "aclip", "mae", "mrm", "simmim", "med_unic", "dino", "mocov3", "unimiss", "joint")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_pass_over_xrays_gets_their_views(name: str, monkeypatch) -> None:
    config = pretrain.get_config(f"demo,{name}")
    config.model.lateral_type = True
    config.model.report_dropout = 0.1  # Med-UniC's views of a report
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step = build_train_step(typed(PretrainConfig, config), 200, mesh)
    where = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    one = jax.eval_shape(lambda: step.objective.example_batch(step.model, 64))
    batch = towers.example(one, {"xray": 3, "ct": 0}, where)
    assert batch["xray"]["lateral"].dtype == jnp.bool_
    embed, rows = vision.VisionTower.embed_image, []

    def recorded(self, pixels, grid=None, hidden=None, lateral=None):
        rows.append((len(pixels), None if lateral is None else len(lateral)))
        return embed(self, pixels, grid, hidden, lateral)

    monkeypatch.setattr(vision.VisionTower, "embed_image", recorded)
    state = step.abstract
    loss = base.loss_function(step.model, step.objective)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    jax.eval_shape(loss, state.params, state.teacher, state.model_state, batch, state.key, number)
    assert rows
    assert all(films == views for films, views in rows), rows
