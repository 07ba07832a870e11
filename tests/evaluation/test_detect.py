"""The detection job: the head learns the phantom's boxes, answers are in the record's pixels, mistakes are named."""

import copy
import dataclasses

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import DetectConfig, FitConfig
from unimedi_jax.evaluation import detect
from unimedi_jax.input import boxes
from unimedi_jax.metrics import detection

CONFIG = DetectConfig(
    untrained=False, limit=9, most=4, widths=(8, 8, 8), resamples=5, recipe=FitConfig(8, epochs=1, patience=1, lr=1e-3)
)


def test_every_number_is_there(trained, phantom):
    rows = {row.metric: row for row in detect.evaluate(trained, phantom, CONFIG)}
    assert set(detect.METRICS) <= set(rows)
    assert rows["map"].cases == phantom.size("xray", "test")
    assert 0 <= rows["map"].value <= 1


def test_answers_become_boxes_of_the_record(trained, phantom):
    task = detect.Task(trained, phantom, "frozen", CONFIG)
    record = next(record for record in task.source("train") if len(boxes.truth(record)))
    sample = task.sampler(record)
    assert sample["real"].sum() == min(4, len(boxes.truth(record)))
    case = task.case(record, sample["boxes"], np.where(sample["real"], 0.9, 0.0))
    table = np.abs(case.predicted[:, None] - case.truth[None]).max(axis=-1)
    assert len(case.predicted)
    assert table.min(axis=1).max() < 1e-3


@pytest.mark.parametrize("protocol", ["ours", "mgca"])
def test_an_epoch_is_judged_by_its_own_number_alone(trained, phantom, protocol, monkeypatch):
    """The same as among all of the metrics, from the best boxes alone where the protocol counts no others."""
    rng = np.random.default_rng(0)
    task = detect.Task(trained, phantom, "frozen", dataclasses.replace(CONFIG, protocol=protocol, overlap=0.3))
    answers = []
    for row in task.cases["val"]:
        truth = boxes.truth(task.source("val")[row]) / 256
        low = np.concatenate([truth[:, :2], rng.uniform(0, 0.8, (40, 2))])
        size = np.concatenate([truth[:, 2:] - truth[:, :2], rng.uniform(0.05, 0.5, (40, 2))])
        places = np.concatenate([low + size / 2, size], axis=1).astype(np.float32)
        scores = np.concatenate([rng.uniform(0.9, 0.95, len(truth)), rng.random(40)])
        answers.append((places, scores.astype(np.float32)))
    monkeypatch.setattr(detect.fit, "predictions", lambda *_: iter(answers))
    whole = detection.measure(task.tested("val", None), confidence=CONFIG.confidence)
    compared, matched, suppress, hits = [], [], detection.suppress, detection.hits
    monkeypatch.setattr(detection, "suppress", lambda x, *y, **z: compared.append(len(x)) or suppress(x, *y, **z))
    monkeypatch.setattr(detection, "hits", lambda *x: matched.append(1) or hits(*x))
    assert 0 < whole["map_mgca"] < 1
    assert task.score(None) == whole["map" if protocol == "ours" else "map_mgca"]
    assert len(matched) <= len(answers), "once a picture"
    assert (sum(compared) < 0.7 * sum(len(scores) for _, scores in answers)) == (protocol == "mgca")


def test_mistakes_are_named(trained, phantom):
    with pytest.raises(UserError, match=r"config\.tune"):
        detect.evaluate(trained, phantom, dataclasses.replace(CONFIG, tune="half"))
    without = dataclasses.replace(phantom, contract=copy.deepcopy(phantom.contract) | {"truth": ["organ_mask"]})
    with pytest.raises(UserError, match="no boxes"):
        detect.evaluate(trained, without, CONFIG)


def test_a_set_that_is_not_there_is_named(checkpoint_dir, tmp_path):
    config = dict(checkpoint=str(checkpoint_dir), data="nowhere", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="nowhere"):
        detect.run(config, tmp_path)
