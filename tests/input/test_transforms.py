"""Records to samples: against arrays made by hand."""

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax import patches
from unimedi_jax.input import augmentation, transforms


def test_crop_takes_the_centre_without_a_generator():
    image = np.arange(256 * 256, dtype=np.uint32).astype(np.uint8).reshape(256, 256)
    np.testing.assert_array_equal(transforms.crop(image, 224, 16, None), image[16:240, 16:240])


def test_random_crops_reach_every_corner_and_stay_inside():
    image = np.zeros((8, 8), np.uint8)
    image[0, 0], image[0, 7], image[7, 0], image[7, 7] = 1, 2, 3, 4
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(200):
        part = transforms.crop(image, 6, 1, rng)
        assert part.shape == (6, 6)
        corners |= set(np.unique(part))
    assert corners == {0, 1, 2, 3, 4}


def test_a_crop_stays_as_near_to_the_centre_as_it_is_told():
    image = np.tile(np.arange(12, dtype=np.uint8), (12, 1))
    rng = np.random.default_rng(0)
    assert {int(transforms.crop(image, 8, 1, rng)[0, 0]) for _ in range(60)} == {1, 2, 3}


def test_shift_moves_and_fills_with_air():
    volume = np.zeros((4, 4, 4), np.int16)
    volume[2, 2, 2] = 100
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(200):
        moved = transforms.shift(volume, (1, 1, 0), rng)
        (z, y, x) = map(int, np.argwhere(moved == 100)[0])
        places.add((z, y, x))
        air = (moved == augmentation.AIR_HU).sum()
        assert air == 64 - (4 - abs(z - 2)) * (4 - abs(y - 2)) * 4
    assert places == {(z, y, 2) for z in (1, 2, 3) for y in (1, 2, 3)}


def test_shrink_is_the_block_mean():
    x = np.random.default_rng(0).integers(-1000, 1000, (4, 8, 6)).astype(np.int16)
    small = transforms.shrink(x, (2, 4, 3))
    for z, y, c in np.ndindex(2, 4, 3):
        block = x[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * c : 2 * c + 2]
        assert abs(small[z, y, c] - block.mean()) <= 0.5
    assert small.dtype == np.int16
    with pytest.raises(UserError, match="do not shrink"):
        transforms.shrink(x, (3, 4, 3))


class Letters:
    """A tokenizer of the shape transformers has: one id a letter."""

    def __call__(self, texts, *, padding, truncation, max_length, return_tensors, **_):
        ids = np.zeros((len(texts), max_length), np.int64)
        for row, text in enumerate(texts):
            codes = [ord(letter) for letter in text][:max_length]
            ids[row, : len(codes)] = codes
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def sampler(modality: str, **changes) -> transforms.ToSample:
    settings = dict(
        modality=modality,
        reports=Letters(),
        length=6,
        crop=224,
        image_size=112,
        image_patch=(16, 16),
        volume_size=(32, 64, 64),
        volume_patch=(4, 16, 16),
    )
    return transforms.ToSample(**{**settings, **changes})


def test_an_xray_becomes_tokens_and_ids():
    image = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    record = {"id": b"a", "report": b"nodule", "image": image}
    sample = sampler("xray")(record)
    assert sample["tokens"].shape == (49, 256)
    assert sample["tokens"].dtype == np.uint8
    whole = patches.unpatchify(sample["tokens"][None], (7, 7), (16, 16))[0]
    np.testing.assert_array_equal(whole, transforms.shrink(image[16:240, 16:240], (112, 112)))
    assert sample["text"].tolist() == [ord(letter) for letter in "nodule"]
    assert sample["text_mask"].all()
    assert sample["id"] == "a"


def test_an_augmented_sample_may_have_the_report_that_says_the_opposite():
    record = {"id": b"a", "report": b"No edema.", "image": np.zeros((256, 256), np.uint8)}
    negating = sampler("xray", texts=("text", "negated"), length=10)
    sample = negating(record, np.random.default_rng(0))
    spelt = "".join(chr(code) for code in sample["negated"][sample["negated_mask"]])
    assert spelt == "Edema."
    assert sample["negated"].shape == sample["text"].shape
    assert sample["text_mask"].sum() == len("No edema.")
    assert "negated" not in negating(record), "for training alone"
    assert "negated" not in sampler("xray")(record, np.random.default_rng(0))


def test_a_ct_becomes_tokens_in_raster_order_of_layers():
    volume = np.zeros((32, 128, 128), np.int16)
    volume[:] = np.arange(32)[:, None, None] // 4  # constant in each layer of four slices
    sample = sampler("ct")({"id": b"a", "report": b"x", "volume": volume})
    assert sample["tokens"].shape == (8 * 4 * 4, 4 * 16 * 16)
    for layer in range(8):
        assert (sample["tokens"][layer * 16 : (layer + 1) * 16] == layer).all()


def test_augmentation_never_mirrors():
    """A bright spot on the patient's right stays there under every draw."""
    image = np.zeros((256, 256), np.uint8)
    image[120:136, 60:70] = 255
    volume = np.full((32, 128, 128), -1000, np.int16)
    volume[:, 60:68, 30:34] = 500
    rng = np.random.default_rng(0)
    for _ in range(50):
        film = sampler("xray")({"id": b"", "report": b"", "image": image}, rng)["tokens"]
        film = patches.unpatchify(film[None], (7, 7), (16, 16))[0]
        assert np.argwhere(film > 100)[:, 1].max() < 56
        shifted = sampler("ct", shift=(1, 6, 6))
        scan = shifted({"id": b"", "report": b"", "volume": volume}, rng)["tokens"]
        scan = patches.unpatchify(scan[None], (8, 4, 4), (4, 16, 16))[0]
        assert np.argwhere(scan > 0)[:, 2].max() < 32
