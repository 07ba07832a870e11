"""What a network sees of records of other sizes: windows and whole volumes, against MONAI's and plain indexing."""

import dataclasses
import json

import monai.transforms
import numpy as np
import pytest

from configs import build as build_config
from configs import pretrain
from data import contract, job
from data.errors import UserError
from data.readers import geometry
from unimedi_jax import patches
from unimedi_jax.config.pretraining import InputConfig, ModelConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import cuts, records, transforms
from unimedi_jax.train import dataset

SIZE, PATCH = (8, 16, 16), (4, 8, 8)
MODEL = ModelConfig(volume_size=SIZE, volume_patch=PATCH, image_size=32, image_patch=(8, 8))
RECORD = np.arange(19 * 33 * 41, dtype=np.int16).reshape(19, 33, 41)


def sampler(modality="ct", **settings):
    return transforms.ToSample.of(modality, None, InputConfig(crop=64, **settings), MODEL)


def volume(tokens):
    """The volume whose patches tokens are."""
    return patches.unpatchify(tokens[None], patches.grid(SIZE, PATCH), PATCH)[0]


def test_windows_are_monai_s_centre_and_a_part_of_the_record():
    made = sampler(window="random")
    middle = volume(made.volume(RECORD))
    centre = monai.transforms.CenterSpatialCrop(SIZE)(RECORD[None])
    np.testing.assert_array_equal(middle, np.asarray(centre)[0])
    starts = set()
    for seed in range(40):
        window = volume(made.volume(RECORD, np.random.default_rng(seed)))
        start = np.unravel_index(int(window[0, 0, 0]), RECORD.shape)
        box = tuple(slice(at, at + n) for at, n in zip(start, SIZE, strict=True))
        np.testing.assert_array_equal(window, RECORD[box])
        starts.add(start)
    low, high = np.min(list(starts), axis=0), np.max(list(starts), axis=0)
    spare = np.subtract(RECORD.shape, SIZE)
    assert (low < spare / 4).all()
    assert (high > spare * 3 / 4).all()


def test_several_windows_reach_both_borders_and_begin_with_the_middle():
    boxes = cuts.boxes(RECORD.shape, SIZE, (3, 2, 1))
    assert len(boxes) == len({tuple(part.start for part in box) for box in boxes}) == 6
    assert boxes[0][0].start == round((19 - 8) / 2)
    assert {box[0].start for box in boxes} == {0, 6, 11}
    assert {box[1].start for box in boxes} == {0, 17}
    assert {box[2].start for box in boxes} == {(41 - 16) // 2}
    tokens = sampler(window="random", windows=(3, 2, 1)).volume(RECORD)
    assert tokens.shape == (6, 8, 256)
    for box, one in zip(boxes, tokens, strict=True):
        np.testing.assert_array_equal(volume(one), RECORD[box])
    assert sampler(window="random", windows=(3, 2, 1)).central.volume(RECORD).shape == (8, 256)


def test_a_record_smaller_than_the_window_lies_in_air():
    small = np.full((5, 40, 16), 7, np.int16)
    window = volume(sampler(window="random").volume(small, np.random.default_rng(0)))
    assert (window[1:6] == 7).all()
    assert (np.delete(window, range(1, 6), axis=0) == geometry.AIR_HU).all()


def test_the_whole_of_any_shape_keeps_its_pixels_square():
    """A ball stays one, and a record that block means bring to the size is shrunk by them as it always was."""
    shape = (24, 60, 44)
    grids = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    disc = np.where(grids[1] ** 2 + grids[2] ** 2 < 18**2, 40, -1000).astype(np.int16)
    seen = volume(sampler().volume(disc))
    rows, columns = (seen[4] > -500).any(1).sum(), (seen[4] > -500).any(0).sum()
    assert rows == columns == round(36 * 16 / 60)
    assert (seen[:, :, :1] == geometry.AIR_HU).all()
    mask = sampler().view("lesion_mask", (disc > 0).astype(np.uint8))
    assert mask.shape == SIZE
    np.testing.assert_array_equal(mask > 0, seen > -480)
    even = np.random.default_rng(0).integers(-1000, 1000, (16, 32, 48), np.int16)
    expected = np.rint(even.reshape(8, 2, 16, 2, 16, 3).mean((1, 3, 5)))
    np.testing.assert_allclose(volume(sampler().volume(even)), expected, atol=1)
    assert sampler().view("lesion_mask", even) is even


def test_kept_masks_lie_on_the_window():
    made = sampler(window="random")
    assert made.view("labels", 3) == 3
    np.testing.assert_array_equal(made.view("volume", RECORD), volume(made.volume(RECORD)))
    np.testing.assert_array_equal(
        made.view("lesion_mask", (RECORD % 200).astype(np.uint8)), volume(made.volume(RECORD)) % 200
    )


def test_films_of_any_size_are_cropped_by_pixels_or_in_proportion():
    film = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    expected = film[16:80, 16:80].reshape(32, 2, 32, 2).mean((1, 3))
    tokens = sampler("xray").film(film)
    seen = patches.unpatchify(tokens[None], (4, 4), (8, 8))[0]
    np.testing.assert_allclose(seen, expected, atol=0.51)
    shares = dataclasses.replace(sampler("xray"), crop_of=128)
    assert [shares.cropped(side) for side in (128, 256, 96)] == [64, 128, 48]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": "half"}, "window must be one of"),
        ({"windows": (3, 1, 1)}, "take config"),
        ({"windows": (0, 1, 1)}, "at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        typed(InputConfig, settings, "config.input")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two phantoms of different grids."""
    folder = tmp_path_factory.mktemp("records")
    grids = {"fine": {"film_size": 384, "spacing_mm": (4.0, 3.0, 3.0)}, "plain": {}}
    for name, grid in grids.items():
        config = build_config.get_config("phantom")
        config.update({"data_dir": str(folder), "name": name, "workers": 1, "xrays": 10, "cts": 10} | grid)
        job.run(config, folder / "work")
    return folder


def run(data, **changes):
    """The settings of a run on these sets, "input.crop" for what is inside a section."""
    config = pretrain.get_config("demo")
    config.data = data
    config.update_from_flattened_dict(changes)
    return typed(PretrainConfig, config.to_dict())


def test_sets_of_two_grids_make_one_batch_where_the_cut_does(sets):
    opened = dataset.open_sets("fine,plain", sets)
    assert [one.film_size for one, _ in opened] == [384, 256]
    config = run("fine,plain")
    dataset.check_grids(opened, config)
    shapes = set()
    for one, _ in opened:
        for modality, made in dataset.samplers(config, None).items():
            shapes |= {made(record)["tokens"].shape for record in one.source(modality, "train")}
    assert len(shapes) == 2, "one of X-rays, one of CTs"
    with pytest.raises(UserError, match="crop=336, but the X-rays of plain have 256 pixels"):
        dataset.check_grids(opened, run("plain", **{"input.crop": 336, "model.image_size": 112}))
    with pytest.raises(UserError, match="is finer than the volumes of plain"):
        dataset.check_grids(opened, run("plain", **{"model.volume_size": (64, 128, 128)}))


def test_contracts_of_two_grids_differ_in_their_sizes_alone(sets):
    fine, plain = (records.open_set(sets, name).contract for name in ("fine", "plain"))
    assert contract.same(fine, plain, grids=False)
    assert not contract.same(fine, plain)
    with pytest.raises(UserError, match=r"records\.ct\.rules\.grid was"):
        contract.check(fine, plain, where="here")
    other = json.loads(json.dumps(plain))
    other["records"]["ct"]["hu"] = [-1000, 1000]
    assert not contract.same(fine, other, grids=False)
