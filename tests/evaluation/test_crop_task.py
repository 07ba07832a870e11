"""Segmentation in crops from a set at its own resolution to results and masks on the voxels of the files."""

import dataclasses

import jax
import nibabel
import numpy as np
import pytest

from configs import predict as configs
from data.build import dataset
from data.errors import UserError
from data.manifest import options
from data.manifest import source as manifest
from data.record_grid import RecordGrid
from tests.conftest import once
from unimedi_jax.config.jobs import CropsConfig, SegmentConfig
from unimedi_jax.evaluation import segment, trials
from unimedi_jax.evaluation.crop_segmenter import CropSegmenter
from unimedi_jax.evaluation.crop_task import CropTask
from unimedi_jax.evaluation.downstream import Outputs
from unimedi_jax.input import records, scan_grid
from unimedi_jax.prediction import predict

SPLITS = ("train",) * 5 + ("val", "test", "test")
SPACING = (4.0, 4.0, 4.0)
RECIPE = CropsConfig(
    spacing_mm=SPACING,
    window_hu=(-200.0, 300.0),
    crop=(8, 16, 16),
    cts=1,
    crops=2,
    steps=2,
    validations=1,
    overlap=0.25,
)
CONFIG = SegmentConfig(
    target="lesions",
    tune="frozen",
    protocol="unetr",
    unetr=RECIPE,
    untrained=False,
    resamples=5,
    unetr_features=1,
    masks=True,
)


@pytest.fixture(scope="session")
def own_set(tmp_path_factory) -> tuple[records.RecordSet, dict[str, nibabel.Nifti1Image]]:
    """Eight small CTs with a mask each, at 4 mm; and the files of the masks by split."""
    folder = tmp_path_factory.mktemp("cts")
    rng, rows, files = np.random.default_rng(0), ["path,modality,report,patient,split,mask"], {}
    affine = np.array([[0, -2.0, 0, 10.0], [-2.0, 0, 0, 20.0], [0, 0, 5.0, -90.0], [0, 0, 0, 1]])
    for number, split in enumerate(SPLITS):
        scan = np.full((36, 40, 12), -1000.0)
        scan[4:32, 4:36] = rng.normal(0, 20, (28, 32, 12))
        place = tuple(slice(a, a + n) for a, n in zip(rng.integers(8, 16, 3) // (1, 1, 4), (10, 10, 4), strict=True))
        scan[place] += 150
        mask = np.zeros(scan.shape, np.uint8)
        mask[place] = 1
        for name, voxels in (("ct", scan), ("mask", mask)):
            image = nibabel.Nifti1Image(np.rint(voxels).astype(np.int16), affine)
            nibabel.save(image, folder / f"{name}{number}.nii.gz")
        files.setdefault(split, []).append(image)
        rows.append(f"ct{number}.nii.gz,ct,A small lesion in the liver.,{number},{split},mask{number}.nii.gz")
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    source = manifest.read(
        folder / "own.csv", dataclasses.replace(options.DEFAULT, grid=RecordGrid(spacing_mm=SPACING))
    )
    where = once("own-at-4mm", lambda place: dataset.build(source, data_dir=place, name="own", workers=1))
    return records.open_set(where, "own"), files


@pytest.fixture(scope="module")
def evaluated(trained, own_set, tmp_path_factory):
    """The rows of an evaluation and the folder that it has left."""
    workdir = tmp_path_factory.mktemp("evaluated")
    return segment.evaluate(trained, own_set[0], CONFIG, Outputs(trained, workdir, detailed=True)), workdir


def test_a_set_is_trained_on_in_crops_and_measured_on_its_files(own_set, evaluated):
    (own, files), (rows, workdir) = own_set, evaluated
    assert {"lesion_mask", "original_lesion_mask"} <= set(own.contract["truth"])
    assert {row.task for row in rows} == {
        "segmentation of lesions, frozen encoder, UNETR's protocol with other settings"
    }
    values = {row.metric: row.value for row in rows}
    assert values["cases/lesion"] == 2
    assert set(segment.METRICS) <= set(values)
    written = sorted((workdir / "masks" / "frozen").glob("*.nii.gz"))
    assert len(written) == 2
    for path in written:
        image = nibabel.load(path)
        assert image.shape == files["test"][0].shape
        np.testing.assert_allclose(image.affine, files["test"][0].affine, atol=1e-4)


def test_a_saved_head_predicts_files_as_it_did_those_of_the_test(checkpoint_dir, own_set, evaluated, tmp_path):
    """Files are read at the spacing of the set that the head was trained on."""
    (own, files), (_, workdir) = own_set, evaluated
    config = configs.get_config()
    config.checkpoint, config.head, config.rows = str(checkpoint_dir), str(workdir), 1
    config.source, config.out = files["test"][0].get_filename().replace("mask", "ct"), str(tmp_path / "new.csv")
    predict.run(config)
    own_id = records.text(own.source("ct", "test", ("id",))[0]["id"])
    expected = nibabel.load(workdir / "masks" / "frozen" / f"{own_id}.nii.gz")
    (made,) = (nibabel.load(path) for path in (tmp_path / "new").glob("*.nii.gz"))
    assert (made.get_fdata() != expected.get_fdata()).mean() < 1e-3, "logits near 0 round otherwise in other batches"
    np.testing.assert_allclose(made.affine, expected.affine, atol=1e-4)


def test_the_truth_is_the_file_s_own_mask(trained, own_set):
    own, files = own_set
    cases = {split: list(range(own.size("ct", split))) for split in ("train", "val", "test")}
    task = CropTask(trained, own, "frozen", cases, CONFIG)
    network = task.start(trials.Trial("untrained"))
    for (truth, predicted, spacing), image in zip(task.masks("test", network), files["test"], strict=True):
        np.testing.assert_array_equal(truth, image.get_fdata())
        assert predicted.shape == truth.shape
        assert spacing == pytest.approx((2.0, 2.0, 5.0))
    record = task.source("test")[0]
    places = scan_grid.Places(record["affine"], tuple(record["original_shape"]), record["original_affine"])
    sharp = np.where(record["lesion_mask"] > 0, 1.0, -1.0)[..., None].astype(np.float32)
    back = scan_grid.classes(sharp, places, lambda plane: (plane[..., 0] > 0).astype(np.uint8))
    truth = files["test"][0].get_fdata() > 0
    # At 4 mm a lesion of 20 mm is blurred; one that lay a voxel beside would have no more than 0.8.
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.85


def test_whole_scans_are_predicted_in_windows_of_the_crop(trained, own_set):
    own, _ = own_set
    cases = {split: list(range(own.size("ct", split))) for split in ("train", "val", "test")}
    task = CropTask(trained, own, "full", cases, CONFIG)
    network = task.start(trials.Trial("trained"))
    volume = task.source("test")[0]["volume"]
    logits = task.segmenter.predict(network, volume, 2)
    assert logits.shape == (*volume.shape, 1)
    air = volume[:, :1] <= -900
    assert air.any()
    assert (logits[:, :1][air] == -1).all(), "outside the foreground is background"
    batch = task.sampler(task.source("train")[0], np.random.default_rng(0))
    assert batch["crops"].shape == (2, *RECIPE.crop)


def test_organs_are_classes_and_those_with_sides_are_never_mirrored(trained, phantom, monkeypatch):
    """The phantom's own grid: a recipe without a spacing takes any."""
    config = dataclasses.replace(CONFIG, target="organs", unetr=dataclasses.replace(RECIPE, spacing_mm=()))
    task = CropTask(trained, phantom, "frozen", {"train": [0], "val": [], "test": [0]}, config)
    task.check()
    assert task.names[:2] == ["right lung", "left lung"]
    assert task.sampler.chances.flip == 0
    assert task.sampler.chances.rotate == RECIPE.rotate
    batch = task.sampler(task.source("train")[0], np.random.default_rng(0))
    loss, _ = jax.jit(task.loss)(task.start(trials.Trial("trained")), batch)
    assert np.isfinite(loss)
    nothing = np.zeros((32, 128, 128, len(task.names) + 1), np.float32)
    monkeypatch.setattr(CropSegmenter, "predict", lambda *_: nothing)
    (truth, predicted, spacing), *_ = task.masks("test", None)
    assert truth.shape == predicted.shape == (32, 128, 128), "it has no file: the record's own mask"
    np.testing.assert_allclose(spacing, task.source("test")[0]["spacing_mm"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unetr": CropsConfig()}, "takes CTs at 2,1.5,1.5 mm .* build the set with --config.spacing_mm=2,1.5,1.5"),
        ({"target": "boxes"}, "segments CTs: set config.target=organs or lesions"),
        ({"unetr": dataclasses.replace(RECIPE, crop=(8, 17, 16))}, "does not fit this checkpoint"),
    ],
)
def test_mistakes_are_named(trained, own_set, change, words):
    with pytest.raises(UserError, match=words):
        segment.evaluate(trained, own_set[0], dataclasses.replace(CONFIG, **change))


def test_recipes_are_scaled_by_their_steps():
    config = SegmentConfig(protocol="voco", steps=10)
    assert (config.crops.steps, config.crops.fit.epochs, config.crops.fit.batch) == (10, 10, 16)
    assert config.crops.fit.warmup == SegmentConfig.voco.warmup
    assert segment.task_name("organs", "full", SegmentConfig(protocol="voco")).endswith("VoCo's protocol")
    assert segment.task_name("organs", "full", config).endswith("VoCo's protocol with other settings")
    with pytest.raises(ValueError, match="absent must be one of zero, skip, one"):
        CropsConfig(absent="nothing")
