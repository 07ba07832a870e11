"""LUNA16's two checks on records that are made up: slices in windows around nodules, candidates by AUC and FROC."""

import dataclasses
import pathlib

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.jobs import CandidatesTask, EvaluateConfig, FitConfig
from unimedi_jax.evaluation import candidate_tuning, candidates, evaluate, slice_windows
from unimedi_jax.evaluation.downstream import Outputs
from unimedi_jax.input import crops
from unimedi_jax.metrics import slice_windows as windows

CONFIG = EvaluateConfig(untrained=False, resamples=20, rows=2, candidates=CandidatesTask(crop=(8, 16, 16), negatives=6))


@dataclasses.dataclass(frozen=True)
class Made:
    """A set in memory."""

    contract: dict
    records: dict
    name: str = "luna16"
    folder: pathlib.Path = pathlib.Path("records/luna16")

    def size(self, modality, split):
        return len(self.records.get(split, ()))

    def source(self, modality, split, fields=None):
        return [{name: x for name, x in one.items() if not fields or name in fields} for one in self.records[split]]


def contract(spacing, *truth):
    rules = {"ct": {"axes": "z y x, growing to Superior, Posterior, Left", "hu": [-1024, 3071], "spacing_mm": spacing}}
    return {"labels": ["Nodule"], "truth": list(truth), "records": rules, "source": {"kind": "luna16"}}


@pytest.fixture(scope="module")
def screened():
    """Scans of 1 mm: nodules are bright balls, candidates are at them and at dark places."""
    rng, splits = np.random.default_rng(0), {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        for _ in range(count):
            volume = rng.normal(-800, 40, (30, 40, 40)).astype(np.int16)
            middle = rng.integers(8, 22, 3) + 0.5
            low, high = middle - 3, middle + 3
            volume[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))] = 60
            others = rng.uniform(0, (30, 40, 40), (12, 3))
            others = others[np.linalg.norm(others - middle, axis=1) > 14]
            rows = np.concatenate([[[1.0, *middle]], np.column_stack([np.zeros(len(others)), others])])
            record = {
                "patient": b"somebody",
                "volume": volume,
                "candidates": rows.astype(np.float32),
                "excluded": np.zeros((0, 4), np.float32),
            }
            record["boxes"] = np.array([[0, *low, *high]], np.float32)
            splits.setdefault(split, []).append(record)
    return Made(contract([1.0, 1.0, 1.0], "boxes", "candidates", "excluded"), splits)


def test_candidates_are_told_apart_by_what_is_around_them(trained, screened):
    values = {row.metric: row.value for row in candidates.evaluate(trained, screened, CONFIG)}
    assert values["auroc/nodule"] > 0.9, "bright or dark: an encoder that has learnt nothing sees it"
    assert values["froc"] > 0.7
    assert values["nodules"] == 4
    assert values["nodules/missed"] == 0


GENESIS = dataclasses.replace(
    CONFIG,
    protocol="genesis",
    candidates=dataclasses.replace(
        CONFIG.candidates, genesis=FitConfig(8, epochs=2, lr=1e-2, encoder_lr=1e-3, weight_decay=0.0, plateau=1)
    ),
)


def test_candidates_are_told_apart_by_a_network_that_is_trained_whole(trained, screened):
    outputs = Outputs()
    evaluate._candidates(trained, screened, GENESIS, outputs)
    (task,) = {row.task for row in outputs.rows}
    assert task == "nodule candidates, fine-tuned, Models Genesis's protocol with other settings"
    assert evaluate._tasks(outputs.rows) == [task]
    values = {row.metric: row.value for row in outputs.rows}
    assert values["auroc/nodule"] > 0.9
    assert values["nodules"] == 4
    assert values["cases"] == sum(len(record["candidates"]) for record in screened.records["test"])


def test_genesis_is_its_published_recipe():
    """ncc_config of keras/downstream_tasks/config.py, and its `model_setup`."""
    task = EvaluateConfig().candidates
    recipe = task.genesis
    assert task.crop == (32, 64, 64)
    assert (recipe.batch, recipe.epochs, recipe.patience, recipe.plateau) == (24, 10_000, 10, 6)
    assert (recipe.lr, recipe.encoder_lr, recipe.weight_decay, recipe.l2) == (1e-3, 1e-3, 0.0, 0.0)
    hu = np.array([-2000, -1000, 0, 1000, 3000], np.int16)
    np.testing.assert_allclose(candidate_tuning.scaled(hu), [-1, -1, 0, 1, 1], atol=1e-6)


def test_an_epoch_has_two_others_to_a_nodule_and_validation_all(trained, screened):
    task = candidate_tuning.CandidateTuning(trained, screened, GENESIS)
    nodules, others = task.cut["train"]
    assert len(nodules) == 6
    assert len(others) == sum(min(6, len(one["candidates"]) - 1) for one in screened.records["train"])
    first = screened.records["train"][0]
    expected = crops.around(first["volume"], first["candidates"][0, 1:], (8, 16, 16))
    np.testing.assert_array_equal(nodules[0], expected)
    source, sampler = task.source("train"), task.sampler
    labels = [record["label"] for record in source]
    assert labels == [1.0, 0.0, 0.0] * 12, "as in LunaFineTune: every nodule twice"
    rng = np.random.default_rng(0)
    known = {candidate_tuning.scaled(one).tobytes() for one in others}
    drawn = [sampler(source[1], rng)["tokens"].tobytes() for _ in range(30)]
    assert set(drawn) <= known
    assert len(set(drawn)) > 10
    val = task.source("val")
    assert [record["label"] for record in val] == [1.0] * 3 + [0.0] * len(task.cut["val"].others)
    assert sampler(val[0])["tokens"].shape == (8, 16, 16)


def test_nodules_are_mirrored_and_turned_in_the_plane(trained, screened):
    crop = np.arange(4 * 6 * 6, dtype=np.int16).reshape(4, 6, 6)
    rng = np.random.default_rng(0)
    made = [candidate_tuning.turned(crop, rng) for _ in range(400)]
    assert all(np.array_equal(np.sort(one, axis=None), crop.ravel()) for one in made)
    assert all({len(set(part.ravel() // 36)) for part in one} == {1} for one in made), "slices stay slices"
    # No mirroring: 0.6; no turn, or one by 0: 0.7.
    assert np.mean([np.array_equal(one, crop) for one in made]) == pytest.approx(0.42, abs=0.08)


def test_without_a_nodule_to_validate_on_nothing_is_trained(trained, screened):
    alone = Made(screened.contract, {name: screened.records[name] for name in ("train", "test")})
    with pytest.raises(UserError, match="no candidate of a nodule in val: build it with split=genesis"):
        candidate_tuning.evaluate(trained, alone, GENESIS)


def test_hits_are_those_within_a_nodules_radius(screened):
    record = screened.records["test"][0]
    nodule = candidates.nodules_of(record["boxes"])
    np.testing.assert_allclose(nodule[0], [*record["candidates"][0, 1:], 6.0])
    split = candidates.Split(
        np.zeros((2, 1)), np.zeros(2), [nodule[:, :3], nodule[:, :3] + 4], [nodule] * 2, [nodule[:0]] * 2, ["a", "b"]
    )
    scans = candidates.scored(split, np.array([0.9, 0.4]))
    assert scans[0].hits.tolist() == [0.9]
    assert np.isnan(scans[1].hits).all()
    assert scans[1].false.tolist() == [0.4]
    rng = np.random.default_rng(0)
    rows = candidates.chosen(np.array([False] * 9 + [True]), 3, rng)
    assert len(rows) == 4
    assert rows[-1] == 9
    assert len(candidates.chosen(np.array([False] * 9), 0, rng)) == 9


def test_a_crop_is_around_its_place_with_air_beyond_the_scan():
    volume = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    np.testing.assert_array_equal(crops.around(volume, (2.5, 3.5, 3.5), (2, 2, 2)), volume[1:3, 2:4, 2:4])
    corner = crops.around(volume, (0.2, 0.2, 6.9), (4, 4, 4))
    np.testing.assert_array_equal(corner[2:, 2:, :3], volume[:2, :2, 4:])
    assert (corner[:2] == -1024).all()
    assert (crops.around(volume, (50, 50, 50), (2, 2, 2)) == -1024).all()


def test_every_nodule_is_a_window_and_a_row_of_the_random_rate(trained):
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 200, (60, 20, 24)).astype(np.int16)
    boxes = np.array([[0, 4, 2, 2, 8, 6, 6], [0, 50, 2, 2, 53, 6, 6], [0, 30, 9, 9, 31, 12, 12]], np.float32)
    made = Made(contract([0.0, 1.0, 1.0], "boxes"), {"test": [{"patient": b"a", "volume": volume, "boxes": boxes}]})
    drawn = list(slice_windows.windows(made, "test"))
    assert [window.extent for window in drawn] == [(4.0, 8.0), (50.0, 53.0), (30.0, 31.0)]
    for window in drawn:
        assert window.volume.shape == (32, 224, 224)
        assert window.start <= window.extent[0]
        assert window.extent[1] <= window.start + windows.DEPTH
    again = list(slice_windows.windows(made, "test"))
    assert [one.start for one in again] == [one.start for one in drawn], "the same for every encoder"
    values = {row.metric: row.value for row in slice_windows.evaluate(trained, made, CONFIG)}
    assert values["nodules/cases"] == 3
    assert 0.4 < values["nodules/random_rate"] < 0.7
    assert 0 <= values["nodules/hit_rate"] <= 1


def test_slices_in_plane_are_made_square_with_air():
    volume = np.full((2, 10, 20), 40, np.int16)
    square = slice_windows.in_plane(volume)
    assert (square[:, 112] == 40).all()
    assert (square[:, :50] == -1024).all()


@pytest.mark.parametrize(
    ("made", "check", "words"),
    [
        (contract([2.0, 1.0, 1.0], "boxes"), slice_windows.evaluate, "no slices of its scans: .*spacing_mm=0,1,1"),
        (contract([2.0, 1.0, 1.0], "candidates"), candidates.evaluate, "cut at 1 mm"),
        (contract([1.0, 1.0, 1.0], "boxes"), candidates.evaluate, "options.candidates=True"),
        (contract([1.0, 1.0, 1.0], "boxes"), candidate_tuning.evaluate, "options.candidates=True"),
    ],
)
def test_mistakes_are_named(trained, made, check, words):
    with pytest.raises(UserError, match=words):
        check(trained, Made(made, {"test": [{}]}), CONFIG)
