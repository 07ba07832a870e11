"""The detection job: the head learns the phantom's boxes, answers are in the record's pixels, mistakes are named."""

import numpy as np
import pytest

from configs import detect as configs
from data.errors import UserError
from unimedi_jax.evaluation import detect, opened
from unimedi_jax.input import boxes
from unimedi_jax.input.records import open_set


@pytest.fixture
def settings(records_dir):
    config = configs.get_config()
    recipe = dict(config.recipe) | dict(batch=8, epochs=1, patience=1, lr=1e-3)
    return dict(
        data_dir=records_dir,
        data="phantom",
        tunes=("frozen",),
        encoders=("trained",),
        shares=(1.0,),
        seeds=(0,),
        limit=9,
        most=4,
        widths=(8, 8, 8),
        lowest=0.01,
        confidence=0.5,
        overlap=0.5,
        resamples=5,
        recipe=recipe,
    )


def test_every_number_is_there(trained, settings, records_dir):
    found = {row.metric: row for row in detect.evaluate(trained, **settings)}
    assert set(detect.METRICS) <= set(found)
    assert found["map"].cases == open_set(records_dir, "phantom").size("xray", "test")
    assert 0 <= found["map"].value <= 1


def test_answers_become_boxes_of_the_record(trained, records_dir):
    found = open_set(records_dir, "phantom")
    source = found.source("xray", "train", detect.FIELDS)
    record = next(record for record in source if len(boxes.truth(record)))
    task = detect.Task(trained, found, None, most=4, limit=0, lowest=0.01, overlap=0.5)
    sample = task.sampler(record)
    assert sample["real"].sum() == min(4, len(boxes.truth(record)))
    case = detect._case(task, record, sample["boxes"], np.where(sample["real"], 0.9, 0.0))
    table = np.abs(case.found[:, None] - case.truth[None]).max(axis=-1)
    assert len(case.found)
    assert table.min(axis=1).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "words"), [({"tunes": ("half",)}, r"config\.tune"), ({"data": "nowhere"}, "nowhere")]
)
def test_mistakes_are_named(trained, settings, change, words):
    with pytest.raises(UserError, match=words):
        detect.evaluate(trained, **settings | change)


def test_a_run_without_boxes_is_refused(trained, settings, monkeypatch):
    found = opened.records.open_set(settings["data_dir"], "phantom")
    found.contract["truth"] = ["organ_mask"]
    monkeypatch.setattr(detect.records, "open_set", lambda *_: found)
    with pytest.raises(UserError, match="no boxes"):
        detect.evaluate(trained, **settings)
