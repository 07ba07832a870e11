"""What is compared: the saved weights and those of the seed, on records that fit the training, by modality."""

import functools
import json
import shutil

import jax
import numpy as np
import optax
import pytest

from data.errors import UserError
from tests import tolerances
from unimedi_jax import sharding
from unimedi_jax.config.jobs import DetectConfig, ProbeConfig, SegmentConfig
from unimedi_jax.evaluation import detect, probe, segment, trials
from unimedi_jax.inference import pretrained
from unimedi_jax.input import records
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import state


def test_weights_are_those_of_the_checkpoint_and_not_of_the_seed(trained):
    saved, fresh = trained.encoder("trained"), trained.encoder("untrained")
    assert jax.tree.structure(saved["params"]) == jax.tree.structure(fresh["params"])
    kernel = ("vision", "patch_2d", "kernel")
    a, b = saved["params"], fresh["params"]
    for name in kernel:
        a, b = a[name], b[name]
    assert not np.allclose(a, b)  # saved from key 5, the run's seed is 42
    assert a.sharding.num_devices == sharding.make_mesh().size


def test_teacher_replaces_the_visual_side_alone(checkpoint_dir, trained):
    teacher = pretrained.load(checkpoint_dir, "teacher").variables["params"]
    # Before the first step the teacher is a copy of the student.
    same = jax.tree.map(np.array_equal, teacher, trained.variables["params"])
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("folder", "network", "words"),
    [("", "student", "is empty"), ("x", "student", "no run and no export"), (".", "tutor", "tutor")],
)
def test_refuses_in_one_line(tmp_path, monkeypatch, folder, network, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        pretrained.load(folder, network)


def test_records_made_by_other_rules_are_refused(records_dir, trained, tmp_path):
    shutil.copytree(records_dir / "phantom", tmp_path / "other")
    path = tmp_path / "other" / "contract.json"
    contract = json.loads(path.read_text())
    contract["records"]["ct"]["hu"] = [-500, 500]
    path.write_text(json.dumps(contract))
    other = records.open_set(tmp_path, "other")
    trained.check(other, ("xray",))
    with pytest.raises(UserError, match=r"records\.ct\.hu was"):
        trained.check(other, ("xray", "ct"))


def test_modalities_that_a_set_has(trained, phantom):
    assert trials.modalities(trained, phantom) == ("xray", "ct")
    assert trials.modalities(trained, phantom, "ct") == ("ct",)
    with pytest.raises(UserError, match="mri"):
        trials.modalities(trained, phantom, "mri")
    with pytest.raises(UserError, match="no X-ray or CT records"):
        trials.modalities(trained, phantom, splits=("holdout",))


@pytest.mark.parametrize("names", ["", "half", "frozen,half"])
def test_ways_of_tuning_are_known(names):
    assert trials.tunes("full,frozen", ("frozen", "full")) == ("full", "frozen")
    with pytest.raises(UserError, match=r"config\.tune is one or more of frozen, full, not"):
        trials.tunes(names, ("frozen", "full"))


def test_the_untrained_twin_is_where_the_run_began(trained):
    objective = Objective(head_norm=trained.config["objective"]["head_norm"])
    model = trained.model.clone(head=objective.heads(trained.model))
    begin = jax.jit(state.make_init(model, optax.sgd(1.0), objective))
    begun = begin(jax.random.key(trained.config["seed"])).params
    own = trained.untrained["params"]
    assert own.keys() <= begun.keys()
    # Two programs of the same draws, which a compiler may round otherwise.
    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerances.float32(1))
    jax.tree.map(same, own, {name: begun[name] for name in own})


def test_nothing_is_trained_on_fewer_than_a_handful_of_cases(caplog):
    config = ProbeConfig(shares=(0.01, 0.1, 1.0), seeds=(0, 1), untrained=False)
    assert trials.trials(config, 50) == [trials.Trial("trained", s, seed) for s in (0.1, 1.0) for seed in (0, 1)]
    assert "a share of 1 % is skipped: of 50 training cases it is 2, and at least 5 are needed" in caplog.text
    assert trials.trials(config, 4) == []


def test_a_set_with_too_few_cases_is_refused_in_one_line(trained, phantom):
    for evaluate, config, has in (
        (probe.evaluate, ProbeConfig(modality="ct", shares=(0.1,), untrained=False), "test CTs"),
        (
            segment.evaluate,
            SegmentConfig(modality="xray", limit=3),
            "3 training and 3 test X-rays with organs annotated within config.limit=3",
        ),
        (detect.evaluate, DetectConfig(limit=3), "3 training and 3 test X-rays within config.limit=3"),
    ):
        with pytest.raises(UserError, match=f"{has}: 5 to train, after config.shares, and 1 to test are needed"):
            evaluate(trained, phantom, config)
