"""A run that trains adapters alone: what is frozen stays, it resumes to the bit, and its export is what it trained."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from data.errors import UserError
from tests.faults import config as toy
from unimedi_jax import checkpoint_reading, lora, trees
from unimedi_jax.config.jobs import ExportConfig
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.export import export
from unimedi_jax.inference import pretrained
from unimedi_jax.train import job as jobs
from unimedi_jax.train import loop

RULES = (
    (r"^vision/trunk/blocks/.*(qkv|fc1)/kernel$", "lora:rank=2:alpha=6"),
    (r"^report/layers/.*qkv/kernel$", "lora:rank=1"),
    (".*", "frozen"),
)


def settings(records_dir: pathlib.Path, steps: int = 2):
    config = toy.short(records_dir)
    config.steps, config.checkpoint.every, config.trainable = steps, 1, RULES
    config.evals.every = 0
    config.optim.update(peak_lr=1e-2, warmup_steps=1)
    return config


@pytest.fixture(scope="module")
def adapted(records_dir, tmp_path_factory) -> pathlib.Path:
    """The workdir of two steps."""
    workdir = tmp_path_factory.mktemp("runs") / "lora"
    loop.run(settings(records_dir), workdir)
    return workdir


def state_of(workdir: pathlib.Path, step: int | None = None):
    return checkpoint_reading.read(workdir, ("params", "teacher", "opt_state"), step)[1]


def test_adapters_alone_train_and_have_optimiser_state(adapted, records_dir, tmp_path) -> None:
    job = jobs.build_job(typed(PretrainConfig, settings(records_dir)), tmp_path / "fresh")
    fresh, after = jax.device_get(job.init(jax.random.key(42)).params), state_of(adapted)
    moved = {
        name
        for name, x, y in zip(trees.names(fresh), *map(jax.tree.leaves, (fresh, after["params"])), strict=True)
        if not np.array_equal(x, y)
    }
    matrices = {name for name in trees.names(fresh) if name.startswith("lora/") and name[-2:] in ("/a", "/b")}
    assert moved == matrices
    assert len(moved) == 2 * 3
    of_trained = dict(zip(trees.names(after["params"]), jax.tree.leaves(after["params"]), strict=True))
    trained = sum(of_trained[name].size for name in matrices)
    assert all(of_trained[name].any() for name in matrices)
    moments = [x for x in jax.tree.leaves(after["opt_state"]) if x.ndim]
    assert sum(x.size for x in moments) == 2 * trained
    assert trained < 0.05 * trees.count(fresh)


def test_it_resumes_to_the_bit(adapted, records_dir, tmp_path) -> None:
    again = tmp_path / "again"
    shutil.copytree(adapted, again)
    shutil.rmtree(again / "checkpoints" / "2")
    (again / "report" / "index.html").unlink()
    loop.run(settings(records_dir), again)
    first, second = state_of(adapted), state_of(again)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_export_is_what_was_trained(adapted, tmp_path) -> None:
    state = state_of(adapted)
    merged = lora.merge(state["params"])
    trained = pretrained.load(adapted)
    for part, tree in trained.variables["params"].items():
        jax.tree.map(np.testing.assert_array_equal, tree, merged[part])
    export.run(ExportConfig(checkpoint=str(adapted), out=str(tmp_path / "out")), tmp_path)
    agreement = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert agreement["checked"], agreement
    again = pretrained.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, trained.variables)
    file = tmp_path / "out" / "adapters.safetensors"
    arrays = safetensors.numpy.load_file(file)
    assert {name.rsplit("/", 1)[1] for name in arrays} == {"a", "b", "scale"}

    # The base with the file of adapters alone is the same network.
    base = tmp_path / "base"
    own = jax.device_put({part: state["params"][part] for part in trained.variables["params"]})
    variables = {**trained.variables, "params": own}
    plain = dataclasses.replace(trained, adapters=None, kernels=None, variables=variables)
    export.write(plain, base)
    assert not (base / "adapters.safetensors").exists()
    export.run(ExportConfig(checkpoint=str(base), adapters=str(file), out=str(tmp_path / "joined")), tmp_path)
    joined = pretrained.load(tmp_path / "joined")
    jax.tree.map(np.testing.assert_array_equal, joined.variables, trained.variables)
    wrong = ExportConfig(checkpoint=str(tmp_path / "out"), adapters=str(file), out=str(tmp_path / "wrong"))
    with pytest.raises(UserError, match="other weights"):
        export.run(wrong, tmp_path)
    flipped = bytearray(file.read_bytes())
    flipped[-3] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        export.run(ExportConfig(checkpoint=str(base), adapters=str(file), out=str(tmp_path / "wrong")), tmp_path)


def test_other_rules_are_another_run(adapted, records_dir) -> None:
    config = settings(records_dir)
    config.trainable = ((".*", "full"),)
    with pytest.raises(UserError, match="trainable"):
        loop.run(config, adapted)
    config.trainable = (("visoin", "full"), (".*", "frozen"))
    with pytest.raises(UserError, match=r"config\.trainable: .*visoin"):
        jobs.build_job(typed(PretrainConfig, config), adapted.parent / "typo")
