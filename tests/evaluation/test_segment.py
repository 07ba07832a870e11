"""The segmentation job: films and volumes, frozen and fine-tuned, whole and in windows, on the record's own grid."""

import cv2
import jax
import numpy as np
import pytest

from configs import segment as configs
from data.errors import UserError
from unimedi_jax.evaluation import segment
from unimedi_jax.input import dense
from unimedi_jax.input.records import open_set
from unimedi_jax.models import unetr


@pytest.fixture
def settings(records_dir):
    config = configs.get_config()
    recipe = dict(config.xray) | dict(batch=8, epochs=1, patience=1, lr=1e-2)
    return dict(
        data_dir=records_dir,
        data="phantom",
        modality="xray",
        target="organs",
        tunes=("frozen",),
        encoders=("trained",),
        shares=(1.0,),
        seeds=(0,),
        limit=9,
        windows=False,
        tolerance=2.0,
        resamples=5,
        setr_channels=(8, 8, 8),
        unetr_features=2,
        recipes={"xray": recipe, "ct": recipe},
    )


def test_films_learn_organs(trained, settings, records_dir):
    settings["recipes"]["xray"].update(epochs=30, patience=30)
    found = {row.metric: row.value for row in segment.evaluate(trained, **settings)}
    assert set(segment.METRICS) <= set(found)
    assert found["cases/heart"] == open_set(records_dir, "phantom").size("xray", "test")
    assert found["dice/mean"] > 0.35  # a constant answer reaches no more than 0.2


def test_volumes_get_logits_for_every_voxel(trained, records_dir):
    """Forward only: gradients of 3D convolutions take minutes with the compiler's optimisations off."""
    found = open_set(records_dir, "phantom")
    decoder = unetr.Unetr(4, trained.model.volume_grid, trained.model.volume_patch, features=1)
    task = segment.Task(trained, found, "ct", "organs", ["a", "b", "c"], decoder, False, {"test": [0]})
    sample = task.sampler(task.source("test")[0])
    assert sample["mask"].max() == 3
    params, stats = task.start(0)
    weights = {"encoder": {"vision": trained.untrained["params"]["vision"]}}
    run = jax.jit(lambda *given: task.logits(*given, False))
    logits, _ = run({"decoder": params}, weights, stats, sample["tokens"][None])
    assert logits.shape == (1, *sample["mask"].shape, 4)
    assert np.isfinite(logits).all()


def test_names_come_from_the_contract(records_dir):
    contract = {"records": {"organ_mask": "0 none, 1 right lung, 2 left lung, 3 heart"}}
    assert segment.organs(contract) == ["right lung", "left lung", "heart"]


@pytest.mark.parametrize(
    ("key", "value", "words"), [("target", "bones", "target"), ("tunes", ("half",), "config.tune")]
)
def test_mistakes_are_named(trained, settings, key, value, words):
    with pytest.raises(UserError, match=words):
        segment.evaluate(trained, **settings | {key: value})


def test_an_xray_and_its_mask_move_together():
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), np.uint8)
    mask[60:140, 90:200] = 1
    image = mask * 200
    for _ in range(5):
        xray, moved = dense.rotate_and_scale(image, mask, rng)
        assert np.abs((xray > 100).astype(int) - moved).mean() < 0.003
    sampler = dense.ToMask("xray", "lesions", (112, 112), (16, 16))
    sample = sampler({"image": image, "lesion_mask": mask * 3})
    found = cv2.resize(sample["mask"].astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (found != mask).mean() < 0.01


def test_truth_of_boxes_and_of_what_nobody_drew():
    record = {"image": np.zeros((8, 8), np.uint8), "boxes": np.array([[0, 1, 2, 3, 5], [1, 6, 6, 8, 8]], np.float32)}
    mask = dense.truth(record, "boxes")
    assert mask.sum() == 2 * 3 + 4
    assert mask[1:3, 2:5].all()
    assert dense.truth({"lesion_mask": np.full((4, 4), 255, np.uint8)}, "lesions") is None
    assert dense.truth({"lesion_mask": np.array([[0, 254, 2, 255]], np.uint8)}, "lesions").tolist() == [[0, 1, 1, 0]]
