"""Random changes of CTs: against loops over voxels, and the same again from the same place."""

import contextlib
import dataclasses

import numpy as np
import pytest

from unimedi_jax.config.pretraining import InputConfig, VolumeAugmentation
from unimedi_jax.input import augmentation, pipeline
from unimedi_jax.input.transforms import ToSample

ALL = VolumeAugmentation(zoom=0.1, scale=0.05, offset=20.0, noise=15.0)


def volume(shape=(4, 6, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_zoom_is_linear_about_the_centre(factor: float) -> None:
    old = volume()
    new = augmentation.zoom(old, factor)
    centre = (np.array(old.shape) - 1) / 2
    for at in np.ndindex(old.shape):
        place = centre + (np.array(at) - centre) / factor
        if (place < 0).any() or (place > np.array(old.shape) - 1).any():
            expected = augmentation.AIR_HU
        else:
            low, expected = np.floor(place).astype(int), 0.0
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod([part if up else 1 - part for up, part in zip(corner, place - low, strict=True)])
                if weight:
                    expected += weight * old[tuple(low + corner)]
        assert abs(new[at] - expected) <= 0.51
    assert new.dtype == np.int16


def test_what_is_off_draws_nothing() -> None:
    old, rng = volume(), np.random.default_rng(3)
    assert augmentation.augment(old, VolumeAugmentation(), rng) is old
    assert rng.random() == np.random.default_rng(3).random()


def test_hounsfield_units_move_as_drawn() -> None:
    """By hand from the same draws, in their order; the record's range is kept."""
    old = volume((8, 16, 16))
    new = augmentation.augment(old, dataclasses.replace(ALL, zoom=0.0), np.random.default_rng(7))
    rng = np.random.default_rng(7)
    factor, added, spread = 1 + rng.uniform(-0.05, 0.05), rng.uniform(-20, 20), rng.uniform(0, 15)
    expected = old * factor + added + spread * rng.standard_normal(old.shape, np.float32)
    assert np.abs(new - expected.clip(-1024, 3071)).max() <= 0.51
    scaled = augmentation.augment(old, VolumeAugmentation(scale=0.5), np.random.default_rng(1))
    assert (np.sign(scaled[np.abs(old) > 2]) == np.sign(old[np.abs(old) > 2])).all(), "water stays at 0"
    loud = augmentation.augment(old, VolumeAugmentation(offset=4000.0), np.random.default_rng(5))
    assert loud.min() >= augmentation.AIR_HU
    assert loud.max() <= augmentation.HIGHEST_HU


def test_noise_is_at_most_as_loud_as_asked() -> None:
    flat, rng = np.zeros((16, 32, 32), np.int16), np.random.default_rng(0)
    spreads = [augmentation.augment(flat, VolumeAugmentation(noise=30.0), rng).std() for _ in range(40)]
    assert max(spreads) < 31
    assert 10 < np.mean(spreads) < 20


def test_nothing_is_mirrored() -> None:
    old = np.full((8, 32, 32), -1000, np.int16)
    old[5:7, 20:26, 2:8] = 500
    rng = np.random.default_rng(0)
    for _ in range(30):
        z, y, x = np.argwhere(augmentation.augment(old, ALL, rng) > 200).mean(axis=0)
        assert z > 3.5
        assert y > 15.5
        assert x < 15.5


@pytest.mark.parametrize("wrong", [{"zoom": 1.0}, {"zoom": -0.1}, {"noise": -1.0}, {"scale": 2.0}])
def test_settings_without_a_meaning(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="zoom and scale are shares"):
        VolumeAugmentation(**wrong)


class Words:
    """A tokenizer of the shape transformers has, one id a letter."""

    def __call__(self, texts, *, max_length, **_):
        ids = np.zeros((len(texts), max_length), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = [ord(letter) for letter in text[:max_length]]
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


class Scans:
    """A set of CTs in memory."""

    name = "scans"

    def size(self, modality: str, split: str) -> int:
        return 5 if (modality, split) == ("ct", "train") else 0

    def source(self, modality: str, split: str, fields=None) -> list[dict]:
        report = "Axial CT of the chest. No effusion. A nodule of 1.5 cm. The heart is large. No fracture."
        return [{"id": f"{i}", "report": report, "volume": volume((8, 16, 16), i)} for i in range(5)]


@pytest.mark.parametrize("processes", [0, 1])
def test_a_resumed_run_reads_the_same_changes(processes: int) -> None:
    sizes = dict(crop=224, image_size=112, image_patch=(16, 16), volume_size=(8, 16, 16), volume_patch=(4, 8, 8))
    words = dict(sentences=0.5, drop_technique=True, shuffle=True)
    sampler = ToSample("ct", Words(), 120, **sizes, **words, ct=ALL, shift=(1, 1, 1))

    def begin(processes: int) -> pipeline.Batches:
        rows = {"xray": 0, "ct": 3}
        return pipeline.train([(Scans(), 1.0)], {"ct": sampler}, rows, InputConfig(processes=processes), seed=4)

    with contextlib.closing(begin(0)) as whole, contextlib.closing(begin(processes)) as resumed:
        before = [next(whole)["ct"] for _ in range(2)]
        resumed.set_state(whole.get_state())
        for _ in range(3):
            one, other = next(whole)["ct"], next(resumed)["ct"]
            for name in ("tokens", "text"):
                np.testing.assert_array_equal(one[name], other[name])
    texts = {bytes(row[row > 0].tolist()) for batch in before for row in batch["text"]}
    assert len(texts) > 1, "sentences are drawn anew"
    assert not any(b"Axial" in text for text in texts)
