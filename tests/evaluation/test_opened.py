"""A checkpoint opened for evaluation: the saved weights, on any number of devices, fed what it was trained on."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest

from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.evaluation import opened
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import state


def test_weights_are_those_of_the_checkpoint_and_not_of_the_seed(trained):
    saved, fresh = trained.variables("trained"), trained.variables("untrained")
    assert jax.tree.structure(saved["params"]) == jax.tree.structure(fresh["params"])
    kernel = ("vision", "patch_2d", "kernel")
    a, b = saved["params"], fresh["params"]
    for name in kernel:
        a, b = a[name], b[name]
    assert not np.allclose(a, b)  # saved from key 5, the run's seed is 42
    assert a.sharding.num_devices == sharding.make_mesh().size


def test_teacher_replaces_the_visual_side_alone(checkpoint_dir, trained):
    teacher = opened.open_run(checkpoint_dir, network="teacher").trained["params"]
    # Before the first step the teacher is a copy of the student.
    same = jax.tree.map(np.array_equal, teacher, trained.trained["params"])
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("folder", "network", "words"),
    [("", "student", "is empty"), ("x", "student", "no run and no export"), (".", "tutor", "tutor")],
)
def test_refuses_in_one_line(tmp_path, monkeypatch, folder, network, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        opened.open_run(folder, network=network)


def test_records_made_by_other_rules_are_refused(records_dir, trained, tmp_path):
    shutil.copytree(records_dir / "phantom", tmp_path / "other")
    path = tmp_path / "other" / "contract.json"
    contract = json.loads(path.read_text())
    contract["records"]["ct"]["hu"] = [-500, 500]
    path.write_text(json.dumps(contract))
    found = opened.records.open_set(tmp_path, "other")
    trained.check(found, ("xray",))
    with pytest.raises(UserError, match=r"records\.ct\.hu was"):
        trained.check(found, ("xray", "ct"))


def test_modalities_that_a_set_has(records_dir):
    found = opened.records.open_set(records_dir, "phantom")
    assert opened.modalities(found, "") == ("xray", "ct")
    assert opened.modalities(found, "ct") == ("ct",)
    with pytest.raises(UserError, match="mri"):
        opened.modalities(found, "mri")
    with pytest.raises(UserError, match="no X-ray or CT records"):
        opened.modalities(found, "", splits=("holdout",))


def test_the_untrained_twin_is_where_the_run_began(trained):
    begin = jax.jit(
        state.make_init(trained.model, optax.sgd(1.0), Objective())
    )  # compiled, as the run does: eager rounds otherwise
    begun = begin(jax.random.key(trained.loaded.config["seed"]))
    jax.tree.map(np.testing.assert_array_equal, trained.untrained["params"], begun.params)
