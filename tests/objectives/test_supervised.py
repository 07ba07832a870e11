"""The ceiling: cross-entropy of the findings against PyTorch's, unknown labels, and the labels on their way to it."""

import json

import numpy as np
import pytest
from jax import numpy as jnp

from configs import pretrain
from data.errors import UserError
from tests.faults import config as toy
from tests.objectives import trial
from unimedi_jax import writers
from unimedi_jax.input import records
from unimedi_jax.objectives import common, supervised
from unimedi_jax.train import dataset, loop

OBJECTIVE = supervised.Objective(labels=3)
NAN = np.nan


@pytest.fixture(scope="module")
def batch(model, make_batch) -> dict:
    made = make_batch(model, 3, 2)
    labels = {"xray": [[1, 0, NAN], [0, NAN, NAN], [1, 1, 0]], "ct": [[NAN, NAN, NAN], [0, 0, 1]]}
    return {name: part | {"labels": jnp.array(labels[name], jnp.float32)} for name, part in made.items()}


def test_the_loss_is_that_of_torch_over_the_known_labels(model, networks, batch) -> None:
    torch = pytest.importorskip("torch")
    value, metrics, _, grads = trial.gradients(model, OBJECTIVE, networks, batch)

    def classify(network):
        images = common.encode_images(network, batch)
        return {name: network.head["labels"](image.cls) for name, image in images.items()}

    logits = trial.bound(model, networks.params, classify)
    losses = []
    for name, part in batch.items():
        for row, target in zip(np.asarray(logits[name]), np.asarray(part["labels"]), strict=True):
            known = ~np.isnan(target)
            pair = (torch.tensor(x[known]) for x in (row, target))
            losses.append(float(torch.nn.functional.binary_cross_entropy_with_logits(*pair)) if known.any() else 0.0)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(metrics["ct/labels"].value) == pytest.approx(np.mean(losses[3:]), rel=1e-5)
    reached = trial.reached(grads)
    assert {"head_labels", "vision/patch_2d", "vision/patch_3d", "vision/trunk"} <= reached
    assert not any(name.startswith(("report", "project")) for name in reached)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([["a"], ["a"]], r"config.objective.labels=3, but first has 1 labels: give --config.objective.labels=1"),
        ([["a", "b", "c"], ["a", "c", "b"]], "first and second differ in their labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, line: str) -> None:
    names = ("first", "second")
    sets = [(records.RecordSet(n, tmp_path, {"labels": x}), 1.0) for n, x in zip(names, labels, strict=True)]
    with pytest.raises(UserError, match=line):
        dataset.check_labels(OBJECTIVE, sets)
    dataset.check_labels(OBJECTIVE, [(records.RecordSet("first", tmp_path, {"labels": list("abc")}), 1.0)])


def test_a_run_ends_with_the_ceiling_beside_the_probe(records_dir, tmp_path) -> None:
    config = toy.short(records_dir)
    config.objective = pretrain.get_config("supervised").objective
    config.evals.ct_slices = False
    loop.run(config, tmp_path)
    lines = writers.read(tmp_path)
    final = next(line for line in lines if "test/xray/supervised/macro" in line)
    assert {"test/ct/supervised/macro", "test/xray/probe/macro", "untrained/xray/supervised/macro"} <= final.keys()
    assert "test/xray/zeroshot/macro" not in final
    assert all(np.isfinite(line["loss/labels"]) for line in lines if "loss/labels" in line)
    assert json.loads((tmp_path / "config.json").read_text())["objective"] == {"name": "supervised", "labels": 5}
