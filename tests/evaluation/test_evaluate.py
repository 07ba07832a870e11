"""All evaluations in one: a page and a CSV of what the data allow, published figures apart from measured ones."""

import csv
import dataclasses
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest

from configs import evaluate as configs
from data.build import dataset
from data.errors import UserError
from data.phantom import source as phantom
from data.phantom.options import Options
from unimedi_jax import cli
from unimedi_jax.config.jobs import DetectTask, EvaluateConfig, SegmentTask
from unimedi_jax.evaluation import detect, evaluate, probe, results, retrieve, segment
from unimedi_jax.input import records
from unimedi_jax.report import published


@pytest.fixture
def config(records_dir, checkpoint_dir):
    config = configs.get_config("phantom")
    config.checkpoint, config.data_dir = str(checkpoint_dir), str(records_dir)
    config.shares, config.seeds, config.rows, config.resamples = (1.0,), (0,), 4, 10
    config.untrained = False
    return config


def test_one_page_and_one_table(config, tmp_path, capsys):
    config.tasks = "probe,slices,retrieve"
    evaluate.run(config, tmp_path)
    with (tmp_path / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {"linear probe", "slices", "zero-shot", "report retrieval"} <= {row["task"] for row in rows}
    assert {(row["checkpoint"], row["step"]) for row in rows} == {(config.checkpoint, "1")}
    slices = {(row["modality"], row["ct_slices"]) for row in rows if row["task"] in ("linear probe", "zero-shot")}
    assert slices == {("xray", ""), ("ct", "True")}, "one name, and a column for how CTs went in"
    metrics = {row["metric"] for row in rows if row["task"] == "slices"}
    assert {"any/fixed_rate", "any/layer_share"} <= metrics
    page = (tmp_path / "index.html").read_text()
    assert "Published by their authors on real patients and not measured here" in page
    (probe,) = (r for r in rows if (r["task"], r["modality"], r["metric"]) == ("linear probe", "ct", "auroc/macro"))
    assert f"{float(probe['value']):.3f}" in page
    assert "any/hit_rate" in capsys.readouterr().out


def test_what_a_set_lacks_is_left_out_and_nothing_at_all_is_an_error(config, tmp_path, monkeypatch):
    bare = records.open_set(config.data_dir, "phantom")
    bare.contract["truth"] = []
    monkeypatch.setattr(records, "open_set", lambda *_: bare)
    config.tasks = "slices,detect"
    with pytest.raises(UserError, match="nothing could be evaluated on phantom"):
        evaluate.run(config, tmp_path)
    config.tasks = "probe,bones"
    with pytest.raises(UserError, match=r"config\.tasks"):
        evaluate.run(config, tmp_path)


def test_a_set_for_testing_alone_is_evaluated_but_for_what_it_needs_to_be_trained_on(config, tmp_path, caplog):
    source = phantom.source(xrays=4, cts=3, seed=9, options=Options(split="test"))
    dataset.build(source, tmp_path, "fresh", workers=1)
    config.data, config.data_dir, config.tasks = "fresh", str(tmp_path), "probe,retrieve,slices"
    with caplog.at_level("INFO", "unimedi_jax"):
        evaluate.run(config, tmp_path)
    with (tmp_path / "results.csv").open() as stream:
        tasks = {row["task"] for row in csv.DictReader(stream)}
    assert {"zero-shot", "report retrieval", "slices"} <= tasks
    assert "linear probe" not in tasks
    (line,) = [message for message in caplog.messages if "fresh, probe" in message]
    assert "no X-ray or CT records for train" in line


def built(kind, name="", **options):
    """Of one set: the contract of a public set that was built with these options."""
    return published.Evaluated({name or kind: {"source": {"kind": kind, "options": options}}})


SETS = [built("covidx", split="mgca", version="9A"), built("btcv"), built("amos22"), built("phantom")]
SETS = {name: contract for one in SETS for name, contract in one.contracts.items()}


def published_beside(task, data, modality="xray", metric="auroc/macro", share=1.0, evaluated=None):
    """(names of rows that say something of ours, our numbers), of one measured number of 0.5."""
    row = results.Result(task, data, modality, "trained", metric, 0.5, share=share)
    evaluated = evaluated or published.Evaluated(SETS)
    table, scalars = published.table({f"trained/{row.key}": row.value}, evaluated)
    ours = {name: value for name, value in scalars.items() if name.endswith("/ours")}
    return [row.name for row in table.rows if "; " in row.name], ours


def test_a_measured_number_stands_beside_a_published_one_of_the_same_set_alone():
    names, ours = published_beside("linear probe", "covidx")
    assert names == ["covidx, linear, AUC, 100% (MGCA, ViT-B); c: linear probe"]
    assert np.isclose([*ours.values()], 50)
    assert published_beside("linear probe", "phantom") == ([], {})


def test_what_is_not_comparable_has_no_number_beside_a_published_one():
    for data in ("btcv", "amos22"):
        names, ours = published_beside("segmentation of organs, fine-tuned", data, "ct", "dice/mean")
        assert not ours
        assert len(names) == 1
        assert names[0].endswith("; N: ours is not the published protocol")
    names, ours = published_beside("linear probe", "covidx", share=0.01)
    assert not ours
    assert names[0].endswith("not the published protocol")
    names, ours = published_beside("linear probe, MGCA's protocol", "covidx", share=0.01)
    assert names == ["covidx, linear, AUC, 1% (MGCA, ViT-B); c: linear probe, MGCA's protocol"]
    assert len(ours) == 1


@pytest.mark.parametrize(
    ("evaluated", "task", "metric", "mark"),
    [
        (built("chexpert", split="mgca", uncertain="mgca"), "linear probe, MGCA's protocol", "auroc/macro", "c"),
        (built("chexpert", split="clean", uncertain="mgca"), "linear probe, MGCA's protocol", "auroc/macro", "N"),
        (built("chexpert"), "linear probe", "auroc/macro", "N"),
        (built("chexpert", split="mgca", uncertain="ones"), "linear probe, MGCA's protocol", "auroc/macro", "N"),
        (built("phantom", "chexpert", split="mgca"), "linear probe, MGCA's protocol", "auroc/macro", "N"),
        (built("rsna", split="detection", greys="largest"), "detection, frozen encoder", "map_mgca", "c"),
        (built("rsna", split="detection"), "detection, frozen encoder, MGCA's protocol", "map_mgca", "N"),
        (
            built("rsna", split="classification", greys="largest"),
            "segmentation of boxes, frozen encoder",
            "dice/mean",
            "N",
        ),
        (
            built("rsna", split="detection", greys="largest"),
            "detection, frozen encoder, MGCA's protocol with other settings",
            "map_mgca",
            "N",
        ),
        (
            built("rsna", greys="largest")._replace(changed={"detection, frozen encoder"}),
            "detection, frozen encoder",
            "map_mgca",
            "N",
        ),
    ],
)
def test_a_published_number_stands_beside_its_own_set_and_settings_alone(evaluated, task, metric, mark):
    (data,) = evaluated.contracts
    names, ours = published_beside(task, data, "xray", metric, evaluated=evaluated)
    assert published.mark(data, task, 1.0, evaluated) == mark
    assert len(ours) == (mark == "c")
    assert len(names) == 1
    assert f"; {mark}: " in names[0]


def test_what_changes_our_own_recipe_takes_its_marks():
    config = EvaluateConfig()
    assert evaluate._changed(config) == set()
    detecting = dataclasses.replace(config, detect=DetectTask(widths=(8, 8, 8)))
    assert evaluate._changed(detecting) == {*detect.TASKS.values()}
    segmenting = dataclasses.replace(config, segment=SegmentTask(limit=40))
    assert evaluate._changed(segmenting) == {segment.task_name("boxes", tune) for tune in segment.TUNES}
    assert evaluate._changed(dataclasses.replace(config, segment=SegmentTask(shares=(0.1,), tune="full"))) == set()


def test_every_mark_is_one_of_three_and_every_task_one_that_a_job_writes():
    written = {probe.TASKS["linear"], detect.task_name("frozen"), segment.task_name("boxes", "frozen")}
    written |= {f"{task}{published.MGCA}" for task in written} | {segment.task_name("organs", "full")}
    written |= {segment.task_name("organs", "full", protocol) for protocol in ("unetr", "voco")}
    assert written <= set(evaluate.SHOWN)
    for entry in published.TABLE:
        assert {way.task for way in entry.ways} <= written
        for way in entry.ways:
            assert set(way.marks) <= {"C", "c", "N"}
            evaluated = built(entry.data, **published.OPTIONS.get(entry.data, {}))
            assert {published.mark(entry.data, way.task, share, evaluated) for share in entry.shares} <= set(way.marks)
    assert published.mark("phantom", "linear probe", 1.0, built("phantom")) == ""
    assert published.mark("covidx", "linear probe", 0.1, published.Evaluated(SETS)) == "N"


def test_without_more_words_nothing_is_trained_for_hours():
    assert configs.get_config().tasks == "probe,retrieve,slices"


def test_two_checkpoints_never_share_a_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dataclasses.replace(trained, path=pathlib.Path("runs/mine"), step=700)
    by_name = results.folder(pathlib.Path("runs/evaluate-{checkpoint}"), run)
    assert by_name == pathlib.Path("runs/evaluate-mine-700")
    for other in (dataclasses.replace(run, step=600), dataclasses.replace(run, path=tmp_path / "elsewhere" / "mine")):
        assert results.folder(pathlib.Path("runs/evaluate-{checkpoint}"), other) != by_name
    row = results.Result("linear probe", "phantom", "ct", "trained", "auroc/macro", 0.5)
    results.publish([row], ("auroc/macro",), tmp_path / "look", run)
    assert results.folder(tmp_path / "look", run) == tmp_path / "look", "the same again may be written over"
    with pytest.raises(UserError, match=r"look/results.csv holds numbers of runs/mine at step 700: name another"):
        results.folder(tmp_path / "look", dataclasses.replace(run, step=600))


def test_the_default_folder_of_a_job_is_named_after_the_checkpoint(monkeypatch):
    for job in cli.OF_A_CHECKPOINT:
        flag = types.SimpleNamespace(value=types.SimpleNamespace(job=job))
        monkeypatch.setattr(cli, "_CONFIG", flag)
        monkeypatch.setattr(cli, "_WORKDIR", types.SimpleNamespace(value=None))
        monkeypatch.setattr(cli.config_flags, "get_config_filename", lambda _, job=job: f"configs/{job}.py:phantom")
        monkeypatch.setattr(cli.flags, "FLAGS", {"config": None})
        assert cli._workdir() == pathlib.Path("runs") / f"{job}-phantom-{results.CHECKPOINT}"


@pytest.fixture(scope="module")
def films_and_scans(tmp_path_factory) -> pathlib.Path:
    """Two sets, one of X-rays and one of CTs, and two that were damaged after they were built."""
    folder = tmp_path_factory.mktemp("sets")
    for name, counts in {"films": (12, 1), "scans": (1, 12), "torn": (1, 1), "cut": (4, 1)}.items():
        source = phantom.source(xrays=counts[0], cts=counts[1], seed=len(name), options=Options(split="test"))
        dataset.build(source, folder, name, workers=1)
    for part in ("films/ct", "cut/ct", "scans/xray"):
        shutil.rmtree(folder / part)
    (folder / "torn" / "contract.json").write_text("{")
    (shard,) = (folder / "cut" / "xray").rglob("*.array_record*")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return folder


def test_films_of_one_set_and_scans_of_another_fill_both_halves_and_damage_costs_its_own_rows(
    config, films_and_scans, tmp_path, caplog, monkeypatch
):
    config.data, config.data_dir, config.tasks = "films,cut,scans,torn", str(films_and_scans), "retrieve,slices"
    monkeypatch.setattr(evaluate.hit_rates.HitRates, "measure", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit):
        evaluate.run(config, tmp_path)
    rows = _rows(tmp_path)
    assert {row["data"] for row in rows} >= {"films", "scans", "films+scans"}, "on the disk before the next task ends"
    assert not (tmp_path / "index.html").exists()
    monkeypatch.undo()
    monkeypatch.setattr(retrieve.Retrieval, "of_set", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(retrieve.Retrieval, "of_pair", lambda *_: pytest.fail("measured again"))
    caplog.clear()
    # What is damaged cannot be taken over: it is tried again, and costs its line.
    monkeypatch.setattr(evaluate, "_open", _without("cut", evaluate._open))
    evaluate.run(config, tmp_path)
    again = _rows(tmp_path)
    assert [row for row in again if row["task"] != "slices"] == rows
    assert {row["data"] for row in again if row["task"] == "slices"} == {"scans"}
    assert sum("torn, all tasks: left out" in line for line in caplog.messages) == 1
    page = (tmp_path / "index.html").read_text()
    for place in ("films, xray", "scans, ct", "films+scans"):
        assert place in page


def _rows(workdir: pathlib.Path) -> list[dict[str, str]]:
    with (workdir / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def _without(name, opening):
    return lambda settings: [one for one in opening(settings) if one.name != name]


def test_a_set_that_is_named_and_not_there_is_an_error_and_not_a_line(config, tmp_path):
    config.data = "phantom,fantom"
    with pytest.raises(UserError, match="no built set named fantom"):
        evaluate.run(config, tmp_path)
