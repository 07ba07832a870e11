import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import build as build_config
from data import job
from data.build import contracts, dataset, writer
from data.errors import OverBudgetError, UserError
from data.phantom import source as phantom
from data.reports import tokenizer
from data.source import Rejected, Row, Source

ROOT = Path(__file__).parents[3]


def draw(row):
    """A fake source's example; every fifth row is bad."""
    if row.number % 5 == 0:
        return Rejected(row.number, row.path, "bad_luck: every fifth row is refused")
    rng = np.random.default_rng(row.number)
    words = rng.permutation(["nodule", "effusion", "no", "left", "right", "heart", "enlarged"])
    common = {
        "id": row.key,
        "patient": row.key,
        "report": " ".join(words) + ", así",
        "labels": np.array([1, np.nan], np.float32),
    }
    boxes = rng.random((row.number % 3, 5 if row.modality == "xray" else 7)).astype(np.float32)
    if row.modality == "xray":
        return {**common, "image": rng.integers(0, 256, (256, 256), np.uint8), "boxes": boxes}
    volume = rng.integers(-1024, 2000, (32, 128, 128), np.int16)
    return {**common, "volume": volume, "spacing_mm": np.array([5, 2, 2], np.float32), "boxes": boxes}


def fake(xrays=20, cts=8, convert=draw):
    splits = ("train", "train", "val", "test")
    rows = [
        Row(f"r{n:03d}", "xray" if n <= xrays else "ct", splits[n % 4], n, path=f"{n}.png")
        for n in range(1, xrays + cts + 1)
    ]
    return Source(
        labels=("nodule", "effusion"),
        prompts={"nodule": {"positive": ["nodule"], "negative": ["no nodule"]}},
        rows=rows,
        convert=convert,
        annotations=frozenset({"boxes"}),
        contract={"kind": "fake"},
        rejected=(Rejected(99, "early.png", "bad_modality: before any pixel"),),
    )


def make(source, folder, name="set", **settings):
    return dataset.build(source, data_dir=folder, name=name, workers=1, **settings)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_what_is_read(tmp_path):
    source = fake()
    built = make(source, tmp_path)
    assert built.made
    count = 0
    for modality in ("xray", "ct"):
        builder = tfds.builder_from_directory(tmp_path / "set" / modality / "1.0.0")
        for split in ("train", "val", "test"):
            rows = [r for r in source.rows if (r.modality, r.split) == (modality, split) and r.number % 5]
            stored = builder.as_data_source(split)
            assert len(stored) == len(rows) == built.counts[modality][split]
            for row, record in zip(rows, stored, strict=True):
                for name, value in draw(row).items():
                    got = record[name].decode() if isinstance(value, str) else record[name]
                    np.testing.assert_array_equal(got, value)
                count += 1
    assert count == sum(bool(row.number % 5) for row in source.rows)
    assert "tensorflow" not in sys.modules


def test_contract_and_ledger(tmp_path):
    make(fake(), tmp_path)
    contract = json.loads((tmp_path / "set" / "contract.json").read_text())
    assert contract["labels"] == ["nodule", "effusion"]
    assert contract["prompts"]["nodule"]["negative"] == ["no nodule"]
    assert contract["splits"]["xray"] == {"train": 8, "val": 4, "test": 4}
    assert contract["libraries"]["numpy"] == np.__version__
    assert len(contract["content_sha256"]) == 64
    lines = [json.loads(line) for line in (tmp_path / "set.rejected.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [5, 10, 15, 20, 25, 99]
    assert lines[0] == {"row": 5, "path": "5.png", "reason": "bad_luck: every fifth row is refused"}
    assert contract["rejected"] == len(lines)
    passed_on = [json.loads(line) for line in (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()]
    assert [{**line, "path": ""} for line in passed_on] == [{**line, "path": ""} for line in lines]
    assert all(re.fullmatch("[0-9a-f]{16}", line["path"]) for line in passed_on)


def test_the_tokenizer_knows_the_training_reports(tmp_path):
    make(fake(), tmp_path)
    loaded = tokenizer.load(tmp_path / "set" / "tokenizer")
    assert loaded.tokenize("No left effusion, ASÍ") == ["no", "left", "effusion", ",", "asi"]


def test_the_same_source_gives_the_same_bytes(tmp_path):
    make(fake(), tmp_path / "a")
    make(fake(), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")

    def changed(row):
        example = draw(row)
        if row.number == 8:
            example["labels"] = np.zeros(2, np.float32)
        return example

    make(fake(convert=changed), tmp_path / "c")
    hashes = [json.loads((tmp_path / name / "set" / "contract.json").read_text())["content_sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_other_processes_and_worker_counts_give_the_same_bytes(tmp_path):
    source = phantom.source(xrays=10, cts=10)
    make(source, tmp_path / "here")
    code = (
        "import sys, pathlib\nfrom data.build import dataset\n"
        "from data.phantom import source as phantom\nif __name__ == '__main__':\n"
        "    source = phantom.source(xrays=10, cts=10)\n"
        "    dataset.build(source, data_dir=pathlib.Path(sys.argv[1]), name='set', workers=2)\n"
    )
    (tmp_path / "job.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, tmp_path / "job.py", tmp_path / "there"], check=True, env=environment)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_a_set_is_built_once(tmp_path):
    first = make(fake(), tmp_path)
    before = files(tmp_path)

    def never(row):
        raise AssertionError("read again")

    again = make(fake(convert=never), tmp_path)
    assert not again.made
    assert (again.counts, again.rejected) == (first.counts, first.rejected)
    with pytest.raises(UserError, match="another source"):
        make(fake(xrays=24), tmp_path)
    assert files(tmp_path) == before


def test_a_folder_that_is_no_set_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a built set"):
        make(fake(), tmp_path)
    assert (tmp_path / "set" / "thesis.tex").read_text() == "years of work"


def test_too_many_rejects_make_no_set_but_the_ledger(tmp_path):
    with pytest.raises(OverBudgetError, match="6 of 29 rows"):
        make(fake(), tmp_path, max_rejected=0.0)
    assert {path.name for path in tmp_path.iterdir()} == {"set.rejected.jsonl", ".set.building"}
    assert len((tmp_path / "set.rejected.jsonl").read_text().splitlines()) == 6


def test_a_build_that_may_reject_more_converts_nothing_again(tmp_path):
    converted = []
    source = fake(convert=lambda row: converted.append(row.number) or draw(row))
    with pytest.raises(OverBudgetError):
        make(source, tmp_path, max_rejected=0.0)
    converted.clear()
    built = make(source, tmp_path, max_rejected=0.5)
    assert [number for number in converted if number % 5] == []
    assert len(built.rejected) == 6
    make(fake(), tmp_path / "undisturbed")
    assert files(tmp_path / "set") == files(tmp_path / "undisturbed" / "set")
    assert not (tmp_path / ".set.building").exists()


def test_a_set_that_exists_is_held_to_the_budget_and_its_rejects_to_the_conditions(tmp_path, monkeypatch):
    def limited(gigabytes):
        return dataclasses.replace(fake(), limits={"worker_memory_gb": gigabytes})

    assert make(limited(2.0), tmp_path).otherwise == ""
    assert make(limited(2.0), tmp_path).second_try == ""
    with pytest.raises(OverBudgetError, match=r"set was built before and stays, but 6 of 29 rows .*; see .*jsonl$"):
        make(limited(2.0), tmp_path, max_rejected=0.0)
    again = make(limited(8.0), tmp_path)
    assert not again.made
    assert "warning: they were rejected under other conditions (config.worker_memory_gb 2.0 then, 8.0 now): " in (
        job.summary(again)
    )
    now = contracts.libraries() | {"pyjpegls": "99"}
    monkeypatch.setattr(contracts, "libraries", lambda: now)
    with pytest.raises(OverBudgetError, match=r"\(pyjpegls .* then, 99 now\): to try them again remove the folder"):
        make(limited(2.0), tmp_path, max_rejected=0.0)
    contract = json.loads((tmp_path / "set" / "contract.json").read_text())
    assert contract.pop("limits") == {"worker_memory_gb": 2.0}
    (tmp_path / "set" / "contract.json").write_text(json.dumps(contract))
    monkeypatch.undo()
    assert make(limited(8.0), tmp_path).otherwise == "", "of an older set the limits are not known"


def test_nothing_to_train_on_is_an_error(tmp_path):
    def convert(row):
        if row.split == "train":
            return Rejected(row.number, row.path, "bad_luck: all of them")
        return draw(row)

    with pytest.raises(UserError, match=r"no row is left to train on.*bad_luck"):
        make(fake(convert=convert), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_accepted_is_said_as_that(tmp_path):
    source = fake(convert=lambda row: Rejected(row.number, row.path, "bad_luck: all of them"))
    with pytest.raises(
        UserError, match=r"no row was accepted, so no set was made. Rejected: \d+ bad_luck, 1 bad_modality\. config"
    ):
        make(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_training_rows_makes_a_set_for_evaluation(tmp_path):
    source = fake()
    rest = dataclasses.replace(source, rows=[row for row in source.rows if row.split != "train"])
    assert (source.for_training, rest.for_training) == (True, False)
    built = make(rest, tmp_path)
    assert built.counts["xray"]["train"] == 0
    assert built.counts["xray"]["test"] > 0
    assert "configs/evaluate.py" in job.summary(built)
    assert "configs/pretrain.py" in job.summary(make(source, tmp_path / "whole"))


def test_a_split_or_modality_without_rows_is_absent(tmp_path):
    def convert(row):
        if row.modality == "ct" or row.split == "val":
            return Rejected(row.number, row.path, "bad_luck: not this one")
        return draw(row)

    built = make(fake(convert=convert), tmp_path)
    assert built.counts == {"xray": {"train": 8, "val": 0, "test": 4}}
    assert not (tmp_path / "set" / "ct").exists()
    assert set(tfds.builder_from_directory(tmp_path / "set" / "xray" / "1.0.0").info.splits) == {"train", "test"}


def test_pictures_that_are_in_two_splits_are_counted(tmp_path):
    def convert(row):
        example = draw(row)
        if row.number in (1, 2, 3, 7) and row.modality == "xray":
            example["image"] = np.ones((256, 256), np.uint8) * (row.number < 4)
        return example

    built = make(fake(convert=convert), tmp_path)
    assert built.leaked == 1


def test_an_error_on_the_way_leaves_nothing_that_loads(tmp_path):
    def convert(row):
        if row.number == 17:
            raise UserError("the disk is on fire")
        return draw(row)

    with pytest.raises(UserError, match=r"^the disk is on fire"):
        make(fake(convert=convert), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".set.building"]
    make(fake(), tmp_path)
    make(fake(), tmp_path / "undisturbed")
    assert files(tmp_path / "set") == files(tmp_path / "undisturbed" / "set")


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 3 * 256 * 256)  # two X-rays or one CT a shard
    make(fake(), tmp_path / "undisturbed")
    drawn = []

    def convert(row):
        drawn.append(row.number)
        if len(drawn) == 15:
            raise KeyboardInterrupt
        return draw(row)

    with pytest.raises(KeyboardInterrupt):
        make(fake(convert=convert), tmp_path)
    again = drawn[:]
    drawn.clear()
    make(fake(convert=lambda row: drawn.append(row.number) or draw(row)), tmp_path)
    assert files(tmp_path / "set") == files(tmp_path / "undisturbed" / "set")
    accepted = {number for number in again[:14] if number % 5}
    assert len(accepted & set(drawn)) <= 2  # of the shard that was open
    assert set(range(1, 29)) <= {*again, *drawn}


def test_damaged_or_foreign_leftovers_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 3 * 256 * 256)
    make(fake(), tmp_path / "undisturbed")

    drawn = []

    def stop(row):
        if row.number == 20:
            raise KeyboardInterrupt
        return draw(row)

    for damage in ("short", "foreign", "other rules", "other limits"):
        began = dataclasses.replace(fake(convert=stop), limits={"worker_memory_gb": 1.0} if "limits" in damage else {})
        with monkeypatch.context() as patched:
            if damage == "other rules":
                patched.setattr(contracts, "rules", lambda *_: {"report": "an older one"})
            with pytest.raises(KeyboardInterrupt):
                make(began, tmp_path / damage)
        parts = tmp_path / damage / ".set.building" / "parts" / "xray"
        assert (parts / "train.0.json").exists()
        if damage == "short":
            (parts / "train.0").write_bytes((parts / "train.0").read_bytes()[:-9])
        if damage == "foreign":
            (parts.parents[1] / "source").write_text("another")
        drawn.clear()
        make(fake(convert=lambda row: drawn.append(row.number) or draw(row)), tmp_path / damage)
        assert len(drawn) == 28 or damage == "short"
        assert files(tmp_path / damage / "set") == files(tmp_path / "undisturbed" / "set")


def test_a_killed_build_leaves_nothing_that_loads(tmp_path):
    code = (
        "import sys, time, pathlib, dataclasses\nfrom data.build import dataset\n"
        "from data.phantom import source as phantom\n"
        "source = phantom.source(xrays=10, cts=2)\n"
        "def slow(row):\n    print(row.key, file=sys.stderr)\n    time.sleep(0.2)\n    return phantom.convert(row)\n"
        "dataset.build(dataclasses.replace(source, convert=slow), data_dir=pathlib.Path(sys.argv[1]),"
        " name='set', workers=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(5):
            process.stderr.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "set").exists()
    assert (tmp_path / ".set.building").exists()
    make(phantom.source(xrays=10, cts=2), tmp_path)
    make(phantom.source(xrays=10, cts=2), tmp_path / "undisturbed")
    assert files(tmp_path / "set") == files(tmp_path / "undisturbed" / "set")
    assert not (tmp_path / ".set.building").exists()


def test_a_data_dir_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"config\.data_dir .* cannot be made"):
        make(fake(), tmp_path / "file" / "records")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a,b"])
def test_names_that_are_no_folder_s(tmp_path, name):
    with pytest.raises(UserError, match=r"config\.name"):
        make(fake(), tmp_path, name=name)


def test_the_phantom_s_config_is_the_embedded_set(tmp_path, monkeypatch, capsys):
    config = build_config.get_config("phantom")
    settings = {name: config[name] for name in ("xrays", "cts", "seed", "language")}
    assert contracts.fingerprint(phantom.source(**settings)) == contracts.fingerprint(phantom.source())
    assert config.name == job.PHANTOM_NAME
    small = phantom.source(xrays=10, cts=0)
    monkeypatch.setattr(phantom, "source", lambda **_: small)
    config.data_dir, config.workers = str(tmp_path), 1
    job.run(config, tmp_path)
    assert "built: " in capsys.readouterr().out
    job.ensure_phantom(tmp_path)
    job.run(config, tmp_path)
    assert "already built: " in capsys.readouterr().out


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="one of manifest, phantom, mimic_cxr"):
        build_config.get_config("dicomdir")
