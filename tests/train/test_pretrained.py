"""A run that starts from an export has its weights, student and teacher, and its tokenizer."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.pretraining import InitConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.export import export
from unimedi_jax.inference import pretrained
from unimedi_jax.train import job as jobs
from unimedi_jax.train import state as states


def test_an_export_starts_a_run(config, tmp_path, monkeypatch):
    job = jobs.build_job(typed(PretrainConfig, config), tmp_path / "first")
    first = job.init(jax.random.key(1))
    trained = pretrained.Pretrained(
        pathlib.Path("nowhere"),
        job.model,
        states.variables(first),
        job.mesh,
        job.tokenizer,
        job.saved_config,
        job.contracts,
        {},
        "student",
        3,
    )
    monkeypatch.setattr(
        "unimedi_jax.export.parity.check", lambda *_, **__: {"checked": False, "why": "a test", "how": "by hand"}
    )
    export.write(trained, tmp_path / "export")

    config.init.checkpoint = str(tmp_path / "export")
    again = jobs.build_job(typed(PretrainConfig, config), tmp_path / "second")
    assert again.tokenizer.get_vocab() == job.tokenizer.get_vocab()
    fresh = again.init(jax.random.key(2))
    begun = jobs.load_pretrained(fresh, again, tmp_path / "second")
    jax.tree.map(np.testing.assert_array_equal, begun.params, first.params)
    jax.tree.map(np.testing.assert_array_equal, begun.teacher, first.teacher)
    assert jax.tree.map(lambda x: x.sharding, begun) == jax.tree.map(lambda x: x.sharding, fresh)
    (summary,) = json.loads((tmp_path / "second" / "init.json").read_text())
    assert summary["part"] == "everything"
    assert not summary["new"]

    def start_from(vision: str) -> states.TrainState:
        settings = dataclasses.replace(again.config, init=InitConfig(vision=vision))
        return jobs.load_pretrained(fresh, dataclasses.replace(again, config=settings), tmp_path / "second")

    part = start_from(str(tmp_path / "export" / "vision_2d.safetensors"))
    np.testing.assert_array_equal(part.params["vision"]["position_2d"], first.params["vision"]["position_2d"])
    np.testing.assert_array_equal(part.params["report"]["segments"], fresh.params["report"]["segments"])
    # What the source has not stays, and the teacher begins as the student does.
    np.testing.assert_array_equal(part.params["vision"]["mask_token"], fresh.params["vision"]["mask_token"])
    jax.tree.map(np.testing.assert_array_equal, part.teacher["vision"], part.params["vision"])

    with pytest.raises(UserError, match="no weights"):
        start_from("nothing-of-that-name")
