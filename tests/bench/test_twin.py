"""The bench's two sides of the step: the same parameters and batch, each in a process of its own."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from configs import bench as config_file
from configs import pretrain
from data.errors import UserError
from unimedi_jax import objectives, sharding, trees
from unimedi_jax.bench.process import Process, random_batch
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.models import towers
from unimedi_jax.train.job import TrainStep, build_train_step

pytestmark = pytest.mark.usefixtures("eight_devices")

TWIN = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
    reason="torch or transformers is not installed (requirements-dev.txt)",
)


@pytest.fixture(scope="module")
def config():
    """The demo's step, smaller."""
    config = config_file.get_config("step,demo,unimedi").pretrain
    config.batch.update({"xray": 2, "ct": 2})
    config.model.update(
        {"norm_by_modality": False, "prototypes_cls": 64, "prototypes_patch": 32, "projection_hidden": 32}
    )
    return config


@pytest.fixture(scope="module")
def settings(config) -> dict:
    return json.loads(config.to_json_best_effort()) | {"vocab_size": 500}


@pytest.fixture(scope="module")
def program(config) -> TrainStep:
    return build_train_step(typed(PretrainConfig, config), 500, sharding.make_mesh(data=8))


def test_the_batch_is_of_the_shapes_that_the_step_takes(config, settings, program) -> None:
    where = sharding.batch_sharding(sharding.make_mesh(data=8))
    one = jax.eval_shape(lambda: towers.example_batch(program.model, config.input.report_length))
    shapes = towers.example(one, dict(config.batch), where)
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), random_batch(settings)) == expected


def test_the_batch_has_all_that_the_demos_objective_and_lateral_films_take() -> None:
    config = pretrain.get_config("demo")
    config.model.lateral_type = True
    read = typed(PretrainConfig, config)
    model = towers.build_model(read.model, 500)
    one = jax.eval_shape(lambda: objectives.make(**config.objective).example_batch(model, read.input.report_length))
    expected = {name: {field: (x.shape[1:], x.dtype) for field, x in part.items()} for name, part in one.items()}
    batch = random_batch(json.loads(config.to_json_best_effort()) | {"vocab_size": 500})
    actual = {name: {field: (x.shape[1:], x.dtype) for field, x in part.items()} for name, part in batch.items()}
    assert actual == expected


@pytest.mark.parametrize("option", ["bfloat16", "compiled"])
def test_an_option_of_the_twin_changes_no_batch(settings, option) -> None:
    expected, actual = random_batch(settings), random_batch(settings | {option: True})
    assert jax.tree.all(jax.tree.map(np.array_equal, actual, expected))


@TWIN
def test_the_twin_in_half_precision_steps(settings) -> None:
    from unimedi_jax.bench import twin

    made = twin.make(settings | {"bfloat16": True})
    made.step()
    assert np.isfinite(made.facts["loss"])


@TWIN
def test_the_twin_has_the_same_parameters_and_learns(settings, program) -> None:
    from unimedi_jax.bench import twin

    made = twin.make(settings)
    assert made.facts["parameters"] == trees.count(program.abstract.params)
    losses = []
    for _ in range(3):
        made.step()
        losses.append(made.facts["loss"])
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    teacher = made.teacher["vision"].patch_3d.weight
    student = made.student["vision"].patch_3d.weight
    assert 0 < (teacher - student).abs().max() < 1e-2


def test_a_process_steps_when_asked(tmp_path, monkeypatch) -> None:
    """Its first step is not measured, and what a library prints does not mix with its answers. From any folder."""
    (tmp_path / "trivial.py").write_text(
        "class Trivial:\n"
        "    def __init__(self, settings):\n"
        "        self.facts = settings | {'steps': 0}\n"
        "    def step(self):\n"
        "        self.facts['steps'] += 1\n"
        "        print('a word of a library')\n"
        "    def peak(self):\n"
        "        return None\n"
        "make = Trivial\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    process = Process("trivial", {"a": 1}, {"PYTHONPATH": str(tmp_path)})
    assert process.facts == {"a": 1, "steps": 1}
    assert process.step() >= 0
    assert process.peak() > 2**20
    process.close()


def test_a_process_that_fails_is_one_line(settings, capfd) -> None:
    with pytest.raises(UserError, match="ended with exit code 1"):
        Process("unimedi_jax.bench.measure", settings)
    assert "has no attribute 'make'" in capfd.readouterr().err


@TWIN
def test_the_twin_reads_the_inside_of_patches_as_we_do() -> None:
    import torch

    from unimedi_jax.bench import twin
    from unimedi_jax.models.tokenizer import SubPatches

    x = np.random.default_rng(0).normal(size=(2, 3, 4 * 8 * 8)).astype(np.float32)
    sizes = {"patch": (4, 8, 8), "subpatch": (2, 4, 4), "hidden": 6}
    ours = SubPatches(width=5, **sizes, dtype=np.float32)
    params = ours.init(jax.random.key(0), jnp.asarray(x))["params"]
    theirs = twin.SubPatches(5, **sizes)
    with torch.no_grad():
        for layer, name in ((theirs.mlp[0], "fc1"), (theirs.mlp[2], "fc2"), (theirs.out, "out")):
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"]).T))
            if "bias" in params[name]:
                layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
        expected = theirs(torch.from_numpy(x)).numpy()
    mine = ours.apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
