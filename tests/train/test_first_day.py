"""What a newcomer's own folder meets: sets without val or test patients, starts that fail, plans of a run."""

import csv
import logging
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from data.build import dataset as building
from data.errors import UserError
from data.manifest import source as manifest
from tests.conftest import once
from tests.faults import config as toy
from unimedi_jax import writers
from unimedi_jax.train import loop


def films(data_dir: pathlib.Path, name: str, splits: Sequence[str], *, pictures: int = 1) -> building.Built:
    """A built set of small random X-rays, `pictures` under each report; patient i is in `splits[i]`."""
    folder, rng, rows = data_dir / f"{name}-raw", np.random.default_rng(len(splits)), []
    folder.mkdir(parents=True)
    for patient, split in enumerate(splits):
        for view in range(pictures):
            path = f"{patient}-{view}.png"
            cv2.imwrite(str(folder / path), rng.integers(0, 255, (80, 70), np.uint8))
            report = f"Case {patient}: there is an opacity in the left lung."
            rows.append([path, "xray", report, f"P{patient}", split, patient % 2])
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "modality", "report", "patient", "split", "label:opacity"], *rows])
    return building.build(manifest.read(folder / "rows.csv", salt="0" * 16), data_dir, name, workers=1)


@pytest.fixture(scope="session")
def films_dir() -> pathlib.Path:
    """Sets by name: which splits they have."""

    def make(data_dir: pathlib.Path) -> None:
        films(data_dir, "notest", ["train"] * 8 + ["val"] * 4)
        films(data_dir, "trainonly", ["train"] * 8)
        films(data_dir, "one_each", ["train"] * 8 + ["val", "test"])

    return once("films", make)


@pytest.fixture
def config(films_dir):
    config = toy.short(films_dir)
    config.batch.ct, config.steps = 0, 2
    config.evals.update(every=1, rows=1)
    return config


@pytest.mark.parametrize(("name", "missing"), [("notest", {"test"}), ("trainonly", {"val", "test"})])
def test_a_set_without_val_or_test_patients_is_trained_on_to_the_end(
    config, tmp_path, caplog, capsys, name, missing
) -> None:
    config.data = name
    with caplog.at_level(logging.INFO):
        loop.run(config, tmp_path / "run")
    assert "report page:" in capsys.readouterr().out
    warned = [record.getMessage() for record in caplog.records if f"the set {name} has no" in record.getMessage()]
    assert len(warned) == len(missing), "once for each split"
    lines = writers.read(tmp_path / "run")
    assert any(key.startswith("val/") for line in lines for key in line) == ("val" not in missing)
    assert lines[-1]["test/cases"] == 0
    assert (tmp_path / "run" / "report" / "index.html").exists()
    loop.run(config, tmp_path / "run")
    assert "nothing left to do" in capsys.readouterr().out


def test_evaluations_every_0_steps_are_none(config, tmp_path) -> None:
    config.data, config.evals.every = "one_each", 0
    loop.run(config, tmp_path / "run")
    lines = writers.read(tmp_path / "run")
    assert not any(key.startswith("val/") for line in lines for key in line)
    assert lines[-1]["test/cases"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"batch": {"xray": -1}},
        {"evals": {"every": -5}},
        {"evals": {"rows": 0}},
        {"checkpoint": {"every": 0}},
        {"mesh": {"fsdp": 0}},
        {"optim": {"peak_lr": float("nan")}},
        {"model": {"report_dropout": 1.5}},
        {"seed": 2**40},
    ],
)
def test_a_number_without_meaning_is_one_sentence_that_names_its_setting(config, tmp_path, change) -> None:
    config.update(change)
    ((section, value),) = change.items()
    name = section if not isinstance(value, dict) else f"{section}.{next(iter(value))}"
    with pytest.raises(UserError, match=rf"config\.{name}=.*allowed"):
        loop.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
