"""What a newcomer's own folder meets: sets without val or test patients, starts that fail, plans of a run."""

import contextlib
import csv
import dataclasses
import json
import logging
import pathlib
import threading
import time
import types
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from data import members
from data.build import contracts
from data.build import dataset as building
from data.errors import UserError
from data.manifest import source as manifest
from data.sets import amos22
from tests.conftest import once
from tests.faults import config as toy
from unimedi_jax import writers
from unimedi_jax.config.jobs import DownstreamConfig
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import trials
from unimedi_jax.input import leaks, records
from unimedi_jax.report import headline
from unimedi_jax.train import dataset, loop, plan
from unimedi_jax.train import job as jobs
from unimedi_jax.train.alone import alone


def films(data_dir: pathlib.Path, name: str, splits: Sequence[str], *, pictures: int = 1) -> building.Built:
    """A built set of small random X-rays, `pictures` under each report; patient i is in `splits[i]`."""
    folder, rng, rows = data_dir / f"{name}-raw", np.random.default_rng(len(splits)), []
    folder.mkdir(parents=True)
    for patient, split in enumerate(splits):
        for view in range(pictures):
            path = f"{patient}-{view}.png"
            cv2.imwrite(str(folder / path), rng.integers(0, 255, (80, 70), np.uint8))
            report = f"Case {patient} of {name}: there is an opacity in the left lung."
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
        films(data_dir, "leaky", ["test"] * 2 + ["train"] * 6)
        films(data_dir, "studies", ["train"] * 4, pictures=2)

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
    config.checkpoint.update(best="xray/zeroshot/macr", keep_best=1)
    with caplog.at_level(logging.INFO):
        loop.run(config, tmp_path / "run")
    lacking = [one for one in caplog.messages if "validations lack config.checkpoint.best=xray/zeroshot/macr: " in one]
    assert len(lacking) == ("val" not in missing)
    assert all("xray/retrieval/i2t_r5 ranks the checkpoints instead" in one for one in lacking)
    printed = capsys.readouterr().out
    assert "report page:" in printed
    assert headline.NOTHING in printed
    (explained,) = [message for message in caplog.messages if message.startswith("the loss is a weighted sum")]
    assert "vl: images against the reports of the batch, in nats" in explained
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


def test_a_start_that_fails_before_its_first_step_does_not_bind_the_corrected_command(config, tmp_path, monkeypatch):
    config.data, workdir = "trainonly", tmp_path / "run"
    wrong = config.copy_and_resolve_references()
    wrong.data, wrong.model.slices, wrong.batch.ct = "one_each", 1, 1  # there are no CTs
    with pytest.raises(UserError, match="no training ct records"):
        loop.run(wrong, workdir)
    first = (workdir / "tokenizer" / "tokenizer.json").read_bytes()
    job = jobs.build_job(typed(PretrainConfig, config), workdir)
    assert job.saved_config["data"] == "trainonly"
    assert json.loads((workdir / "config.json").read_text())["model"]["slices"] == config.model.slices
    ours = dataset.open_sets("trainonly", config.data_dir)[0][0].folder / "tokenizer" / "tokenizer.json"
    assert (workdir / "tokenizer" / "tokenizer.json").read_bytes() == ours.read_bytes() != first
    # What has saved a state, be it damaged by now, is not written over.
    (workdir / "checkpoints" / "2.damaged").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run with other settings"):
        jobs.build_job(typed(PretrainConfig, wrong), workdir)


def test_a_start_beside_a_run_that_has_saved_nothing_yet_is_refused(config, tmp_path) -> None:
    config.data = "trainonly"
    before = jobs.build_job(typed(PretrainConfig, config), tmp_path).saved_config
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    config.seed += 1
    with alone(tmp_path, primary=True), pytest.raises(UserError, match="another process trains in"):
        loop.run(config, tmp_path)
    assert before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_of_two_starts_on_a_new_folder_one_has_it(tmp_path) -> None:
    new = tmp_path / "deep" / "new"
    entered, refused = [], []
    ready = threading.Barrier(8)

    def start() -> None:
        ready.wait()
        try:
            with alone(new, primary=True):
                entered.append(new.exists())
                time.sleep(0.3)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered == [True]
    assert len(refused) == 7
    assert not new.exists()  # nothing was written
    with alone(new, primary=True):
        (new / "config.json").write_text("{}")
    assert new.exists()


def test_sets_say_which_pictures_belong_together_and_batches_pass_it_on(config, films_dir, tmp_path) -> None:
    assert "pictures_sharing_a_report" not in dataset.open_sets("trainonly", films_dir)[0][0].contract
    assert dataset.open_sets("studies", films_dir)[0][0].contract["pictures_sharing_a_report"] == 8

    def batch(name: str, group_studies: bool = True) -> dict:
        config.data, config.input.group_studies, config.batch.xray = name, group_studies, 4
        with contextlib.closing(jobs.open_batches(jobs.build_job(typed(PretrainConfig, config), tmp_path))) as batches:
            return next(batches)["xray"]

    whole = batch("studies")
    reports = [bytes(text) for text in whole["text"]]
    same_report = np.array([[one == other for other in reports] for one in reports])
    assert same_report.sum() == 16, "the four patients have two films each"
    np.testing.assert_array_equal(whole["study"][:, None] == whole["study"][None], same_report)
    assert whole["study"].dtype == np.int32
    assert "study" not in batch("studies", group_studies=False)
    assert "study" not in batch("trainonly")


def test_the_plan_of_a_run_is_in_the_log_before_its_first_step(config, tmp_path, caplog) -> None:
    config.data, config.steps, config.batch.xray = "trainonly", 20, 6
    job = jobs.build_job(typed(PretrainConfig, config), tmp_path)
    with caplog.at_level(logging.INFO):
        plan.announce(job)
    assert "2 x cpu on 1 host, mesh data 2 x fsdp 1, float32, 20 steps of 12 X-rays of 8 (30.0 epochs)" in caplog.text
    assert "every batch of 12 X-rays repeats records, as there are 8" in caplog.text
    assert "the global batch is 12, and grows with the 2 devices: config.optim.peak_lr=" in caplog.text
    assert plan.other_batch(job.config, job.config.optim.chosen_for, 2) == ""
    assert "on a CPU" not in caplog.text
    assert "copies are negatives of each other; a smaller config.batch.xray avoids it" in caplog.text
    assert plan.repeats({"xray": 8}, {"xray": 8, "ct": 0}) == []
    assert "copies teach nothing more" in plan.repeats({"ct": 24}, {"xray": 8, "ct": 3}, grouped=True)[0]
    model = dataclasses.replace(job.config.model, vision_size="B")
    full = dataclasses.replace(job, config=dataclasses.replace(job.config, model=model))
    with caplog.at_level(logging.INFO):
        plan.announce(full)
    assert "ViT-B on a CPU: configs/pretrain.py:demo is the small run" in caplog.text
    assert plan.time_left(job, 18.0, 10).startswith("about 3 min left, at the 18.00 s a step")
    slow = plan.time_left(job, 18_000.0, 10)
    assert slow.startswith("about 50.0 h left")
    assert "configs/pretrain.py:demo" in slow


def test_patients_and_pictures_that_are_learnt_from_and_tested_on_are_an_error(config, films_dir, tmp_path, caplog):
    """P0 and P1 are in training in one set and in test in the other, with the same films."""
    config.data = "trainonly,leaky"
    problem = (
        "2 patients and 2 pixel-equal pictures of the training records of trainonly are in the test records of leaky"
    )
    with pytest.raises(UserError, match=rf"{problem}.*--config.allow_leaks=True"):
        jobs.build_job(typed(PretrainConfig, config), tmp_path / "mix")
    config.allow_leaks = True
    jobs.build_job(typed(PretrainConfig, config), tmp_path / "mix")
    assert problem in caplog.text

    config.data, config.allow_leaks = "trainonly", False
    jobs.build_job(typed(PretrainConfig, config), tmp_path / "run")
    trained = types.SimpleNamespace(path=tmp_path / "run", members=members.read(tmp_path / "run"))
    tested = dataset.open_sets("leaky", films_dir)[0][0]
    with pytest.raises(UserError, match=problem):
        trials.check_leaks(trained, [tested], DownstreamConfig())
    trials.check_leaks(trained, [tested], DownstreamConfig(allow_leaks=True))
    trials.check_leaks(trained, [dataset.open_sets("one_each", films_dir)[0][0]], DownstreamConfig())

    config.data, config.init.checkpoint = "leaky", str(tmp_path / "run")
    with pytest.raises(UserError, match=f"config.init.checkpoint=.*: {problem}"):
        dataset.check_leaks(typed(PretrainConfig, config), dataset.open_sets("leaky", films_dir), tmp_path / "next")
    config.data = "one_each"
    dataset.check_leaks(typed(PretrainConfig, config), dataset.open_sets("one_each", films_dir), tmp_path / "next")
    assert set(members.read(tmp_path / "next")) == {"trainonly", "one_each"}, "what the first run learnt counts too"


def test_sets_whose_masks_name_other_organs_are_trained_on_together(films_dir, monkeypatch):
    known = {name: records.open_set(films_dir, name) for name in ("trainonly", "one_each")}
    of_organs = {**known["one_each"].contract, "records": contracts.rules(amos22.ORGANS)}
    known["one_each"] = dataclasses.replace(known["one_each"], contract=of_organs)
    monkeypatch.setattr(records, "open_set", lambda _, name: known[name])
    assert len(dataset.open_sets("trainonly,one_each", films_dir)) == 2
    of_organs["records"]["xray"]["rules"]["grey"] = "min-max"
    with pytest.raises(UserError, match="one_each beside trainonly"):
        dataset.open_sets("trainonly,one_each", films_dir)


def test_a_set_with_one_picture_in_training_and_test_is_an_error_of_its_own(films_dir, tmp_path):
    (one, _), *_ = dataset.open_sets("one_each", films_dir)
    listed = members.read(one.folder)
    listed["train"]["pictures"][0] = listed["test"]["pictures"][0]
    members.write(tmp_path, listed)
    same = dataclasses.replace(one, folder=tmp_path)
    with pytest.raises(UserError, match="1 pixel-equal pictures of the training records of one_each are in the test"):
        leaks.check(leaks.of_sets([same]), [same], allowed=False)
    (tmp_path / members.FILE).unlink()
    leaks.check(leaks.of_sets([same]), [same], allowed=False)  # a set of an older version: not known


def test_a_published_split_by_film_is_what_was_asked_for(films_dir, tmp_path):
    (one, _), *_ = dataset.open_sets("one_each", films_dir)
    listed = members.read(one.folder)
    listed["train"]["patients"] += listed["test"]["patients"]
    members.write(tmp_path, listed)
    by_film = {**one.contract, "source": {**one.contract["source"], "patients_in_two_splits": 1}}
    asked = dataclasses.replace(one, folder=tmp_path, contract=by_film)
    leaks.check(leaks.of_sets([asked]), [asked], allowed=False)
    with pytest.raises(UserError, match="1 patients"):
        leaks.check(leaks.of_sets([asked]), [dataclasses.replace(asked, name="other")], allowed=False)
