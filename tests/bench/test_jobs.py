"""The benches of input, build, checkpoint and compile at toy size: they run, and measure what was asked."""

import json
import pathlib
import subprocess
import types

import numpy as np
import pytest
from pyarrow import parquet

from configs import bench as config_file
from data.build import dataset
from data.errors import UserError
from data.phantom import source as phantom
from data.readers import dicom_pixels
from data.record_grid import RecordGrid
from unimedi_jax import cli
from unimedi_jax.bench import building, decoding, embedding, fine_records, job, measure, originals, overheads, reading
from unimedi_jax.bench.process import from_json, to_json


@pytest.fixture
def config(tmp_path_factory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(originals, "XRAY", (300, 256))
    monkeypatch.setattr(originals, "CT", (64, 64, 40))
    monkeypatch.setattr(originals, "SPACING", (5.0, 5.0, 8.0))
    monkeypatch.setattr(building, "LISTED", 50)
    monkeypatch.setattr(building, "PHANTOM", {"xray": 1, "ct": 1})
    monkeypatch.setattr(reading, "ROWS", {"xray": 2, "ct": 2})
    monkeypatch.setattr(reading, "RECORDS", {"xray": 4, "ct": 4})
    monkeypatch.setattr(fine_records, "GRID", RecordGrid(64, (32, 64, 64)))
    monkeypatch.setattr(fine_records, "WINDOW", (8, 32, 32))
    monkeypatch.setattr(fine_records, "COUNTS", {"xray": 2, "ct": 2})
    config = config_file.get_config("all,demo")
    config.films, config.scans, config.rounds, config.workers = 2, 1, 2, 0
    config.vocab_size = 100
    config.pretrain.model.update({"prototypes_cls": 32, "prototypes_patch": 16, "head_hidden": 32})
    config.pretrain.batch.update({"xray": 1, "ct": 1})
    return config


def measured(workdir: pathlib.Path) -> dict[str, dict]:
    return {row["name"]: row for row in map(json.loads, (workdir / measure.LINES).read_text().splitlines())}


def test_input_and_build(config, tmp_path: pathlib.Path) -> None:
    config.data_dir = str(tmp_path / "records")
    dataset.build(phantom.source(xrays=12, cts=8, seed=1), data_dir=tmp_path / "records", name="phantom", workers=1)
    reading.inputs(config, tmp_path)
    building.build(config, tmp_path)
    rows = measured(tmp_path)
    assert rows["X-rays from records, one core, cached"]["median"] > 0
    assert rows["CTs from records, 4 threads, not cached"]["median"] > 0
    assert rows["CTs of 32 x 64 x 64 from records, one core, cached"]["median"] > 0
    assert rows["windows of 8 x 32 x 32 of such CTs from records, one core, cached"]["median"] > 0
    assert rows["X-rays: one core over tokenising anew"]["unit"] == "x"
    assert rows["CTs in .nii.gz: built over get_fdata + zoom"]["rounds"] == 2
    for name in ("X-rays in JPEG, reduced, built", "X-rays in DICOM, built", "CTs in DICOM, built"):
        assert rows[name]["median"] > 0
    assert 0 < rows["memory of a million rows, reports of 600 letters"]["median"] < 10
    assert rows["the whole phantom, two cores"]["rounds"] == 2
    pixels, rate = rows["CTs from records, one core, cached, pixels"], rows["CTs from records, one core, cached"]
    assert pixels["median"] == pytest.approx(rate["median"] * 2**20 / 1e6)


def test_decode(config, tmp_path: pathlib.Path, monkeypatch) -> None:
    """Every coding is read by the decoder of the readers; lossless ones hold the pixels that were written."""
    monkeypatch.setattr(decoding, "FILM", (96, 64))
    films = decoding.films(decoding.FILM)
    lossless = [dicom_pixels.decode(films[coding]) for coding in ("JPEG Lossless", "JPEG-LS", "JPEG 2000")]
    assert all(np.array_equal(one, lossless[0]) for one in lossless)
    assert np.abs(dicom_pixels.decode(films["JPEG"]) / 255 - lossless[0] / 4095).max() < 0.05
    decoding.run(config, tmp_path)
    rows = measured(tmp_path)
    assert rows["JPEG by Pillow"]["rounds"] == 2
    assert rows["JPEG Lossless by GDCM"]["median"] > 0
    assert rows["JPEG 2000: ours over Pillow"]["unit"] == "x"


def test_checkpoint(config, tmp_path: pathlib.Path) -> None:
    overheads.checkpoints(config, tmp_path)
    rows = measured(tmp_path)
    stall, whole = (
        rows[name]["values"] for name in ("stall: the loop waits for a save", "a save to its end, in the background")
    )
    assert all(0 < a <= b for a, b in zip(stall, whole, strict=True))
    assert not (tmp_path / "checkpointed").exists()


def test_settings_survive_the_way_through_json(config) -> None:
    assert from_json(to_json(config)) == from_json({**config.pretrain.to_dict(), "vocab_size": 100})


def test_compile(config) -> None:
    settings = to_json(config)
    times = overheads._compile(settings)
    assert set(times) == {"trace", "compile", "cpu"}
    assert all(value > 0 for value in times.values())


def test_what_compiles_and_starts_apart_is_in_this_folder_and_has_the_package(tmp_path, monkeypatch) -> None:
    """A relative --workdir is that of the command, which may be given anywhere."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    started = []

    def run(command, **settings):
        started.append(settings)
        return types.SimpleNamespace(stdout='{"trace": 1} 2')

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(overheads.json, "loads", lambda text: text)
    overheads._compiled({}, pathlib.Path("compilations"))
    (tmp_path / "exported").mkdir()
    monkeypatch.setattr(originals, "make", lambda *_: tmp_path / "originals")
    embedding.start(types.SimpleNamespace(films=1, scans=1, rounds=1), pathlib.Path())
    assert len(started) == 4
    for settings in started:
        assert "cwd" not in settings
        assert settings["env"]["PYTHONPATH"] == str(pathlib.Path(overheads.__file__).parents[2])


def test_unknown_benches_are_refused(config, tmp_path: pathlib.Path) -> None:
    config.what = "step+spede"
    with pytest.raises(UserError, match="spede"):
        job.run(config, tmp_path)


@pytest.mark.parametrize("busy", [3.0, 60.0])
def test_other_work_is_reported(config, tmp_path: pathlib.Path, monkeypatch, caplog, busy: float) -> None:
    monkeypatch.setattr(job.psutil, "cpu_percent", lambda interval: busy)
    monkeypatch.setattr(job, "BENCHES", {"step": lambda config, workdir: None})
    config.what = "step"
    job.run(config, tmp_path)
    assert measured(tmp_path)["processors that others use"]["values"] == [busy]
    assert ("other processes use this machine" in caplog.text) == (busy >= job.IDLE)


def test_both_jobs_are_on_the_list() -> None:
    assert {"bench", "compile"} <= set(cli.JOBS)


def test_embed_and_start(config, tmp_path: pathlib.Path) -> None:
    config.pretrain.compilations = ""
    embedding.embed(config, tmp_path)
    embedding.start(config, tmp_path)
    rows = measured(tmp_path)
    assert rows["X-rays embedded, ours"]["median"] > 0
    assert rows["embedding over PyTorch"]["rounds"] == 2
    assert rows["load to the first embedding, programs kept"]["median"] > 0
    assert rows["main.py --help"]["goal"] == "below 0.2"
    ours, theirs = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("ours", "torch"))
    assert ours.num_rows == theirs.num_rows == config.films
