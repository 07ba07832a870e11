"""The detection job: the head learns the phantom's boxes, answers are in the record's pixels, mistakes are named."""

import copy
import dataclasses

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import DetectConfig, FitConfig
from unimedi_jax.evaluation import detect
from unimedi_jax.input import boxes

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
