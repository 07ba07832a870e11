"""The segmentation job: films and volumes, frozen and fine-tuned, whole and in windows, on the record's own grid."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import FitConfig, SegmentConfig
from unimedi_jax.evaluation import segment, segment_cases, trials
from unimedi_jax.input import dense

RECIPE = FitConfig(8, epochs=1, patience=1, lr=1e-2, weight_decay=0.05)
CONFIG = SegmentConfig(
    modality="xray",
    tune="frozen",
    untrained=False,
    limit=9,
    resamples=5,
    setr_channels=(8, 8, 8),
    unetr_features=1,
    xray=RECIPE,
    ct=RECIPE,
)


def test_films_learn_organs(trained, phantom):
    config = dataclasses.replace(CONFIG, xray=dataclasses.replace(RECIPE, epochs=30, patience=30))
    values = {row.metric: row.value for row in segment.evaluate(trained, phantom, config)}
    assert set(segment.METRICS) <= set(values)
    assert values["cases/heart"] == phantom.size("xray", "test")
    assert values["dice/mean"] > 0.35  # a constant answer reaches no more than 0.2


def test_volumes_get_logits_for_every_voxel(trained, phantom):
    """Forward only: gradients of 3D convolutions take minutes with the compiler's optimisations off."""
    task = segment.Task(trained, phantom, "ct", "frozen", {"test": [0]}, CONFIG)
    sample = task.sampler(task.source("test")[0])
    classes = len(task.names)
    assert sample["mask"].max() == classes
    network = task.start(trials.Trial("untrained"))
    logits, _ = jax.jit(task.segmenter.logits)(network, sample["tokens"][None])
    assert logits.shape == (1, *sample["mask"].shape, classes + 1)
    assert np.isfinite(logits).all()


def test_names_come_from_the_contract():
    contract = {"records": {"organ_mask": "0 none, 1 right lung, 2 left lung, 3 heart"}}
    assert segment_cases.organs(contract) == ["right lung", "left lung", "heart"]


@pytest.mark.parametrize(
    ("change", "words"), [({"target": "bones"}, "target"), ({"tune": "half"}, "config.tune")], ids=str
)
def test_mistakes_are_named(trained, phantom, change, words):
    with pytest.raises(UserError, match=words):
        segment.evaluate(trained, phantom, dataclasses.replace(CONFIG, **change))


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
    enlarged = cv2.resize(sample["mask"].astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (enlarged != mask).mean() < 0.01


def test_a_ct_smaller_than_a_window_has_air_around_it(trained, phantom, monkeypatch):
    """In training and in prediction; its logits are those of its own voxels."""
    config = dataclasses.replace(CONFIG, modality="ct", windows=True)
    task = segment.Task(trained, phantom, "ct", "frozen", {"test": [0]}, config)
    size, rng = trained.size("ct"), np.random.default_rng(0)
    volume = rng.integers(-500, 500, (size[0] - 5, size[1] + 3, size[2] - 2)).astype(np.int16)
    mask = (volume > 0).astype(np.uint8)
    for draw in (None, rng):
        sample = task.sampler({"volume": volume, "organ_mask": mask}, draw)
        assert sample["mask"].shape == size
        assert sample["mask"][2:-3, :, 1:-1].any()
        assert not sample["mask"][:2].any()
        assert sample["tokens"].min() == -1024
    seen = []

    def apply(network, tokens):
        seen.append(np.asarray(tokens).min())
        return np.ones((len(tokens), *size, 1), np.float32)

    monkeypatch.setitem(vars(task.segmenter), "apply", apply)
    logits = task.segmenter.in_windows(None, volume, trained.mesh.size)
    np.testing.assert_allclose(logits, np.ones((*volume.shape, 1)), atol=1e-6)
    assert min(seen) == -1024


def test_truth_of_boxes_and_of_what_nobody_drew():
    record = {"image": np.zeros((8, 8), np.uint8), "boxes": np.array([[0, 1, 2, 3, 5], [1, 6, 6, 8, 8]], np.float32)}
    mask = dense.truth(record, "boxes")
    assert mask.sum() == 2 * 3 + 4
    assert mask[1:3, 2:5].all()
    assert dense.truth({"lesion_mask": np.full((4, 4), 255, np.uint8)}, "lesions") is None
    assert dense.truth({"lesion_mask": np.array([[0, 254, 2, 255]], np.uint8)}, "lesions").tolist() == [[0, 1, 1, 0]]
