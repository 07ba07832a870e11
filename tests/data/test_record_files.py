"""A set is data: whatever its files say, opening it runs nothing, reaches nothing outside, and ends in one line."""

import contextlib
import json
import shutil
import sys
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data import contract, record_files
from data.checks import audit
from data.errors import UserError
from unimedi_jax.input import records

PLANTED = "planted_by_a_set"
TENSOR = record_files.TENSOR


@pytest.fixture
def stored(records_dir, tmp_path):
    """A copy of the phantom that a test may injure."""
    shutil.copytree(records_dir / "phantom", tmp_path / "phantom")
    return tmp_path


def part(root, modality="xray"):
    return root / "phantom" / modality / "1.0.0"


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def fields(content):
    return content["featuresDict"]["features"]


def test_records_are_what_tfds_reads(records_dir):
    dataset = records.open_set(records_dir, "phantom")
    for modality in ("xray", "ct"):
        builder = tfds.builder_from_directory(records_dir / "phantom" / modality / "1.0.0")
        for split, info in builder.info.splits.items():
            theirs, ours = builder.as_data_source(split), dataset.source(modality, split)
            assert len(ours) == info.num_examples == dataset.size(modality, split)
            for index in {0, len(ours) - 1}:
                expected, record = theirs[index], ours[index]
                assert record.keys() == expected.keys()
                for name, value in expected.items():
                    assert type(record[name]) is type(value)
                    np.testing.assert_array_equal(record[name], value)


def plant(root, monkeypatch):
    """A module where Python finds it, which leaves a file when it is imported."""
    mark = root / "ran"
    (root / f"{PLANTED}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Feature: pass\n", encoding="utf-8")
    sys.modules.pop(PLANTED, None)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.chdir(root)
    return mark


def as_class(content):
    fields(content)["id"]["pythonClassName"] = f"{PLANTED}.Feature"


def as_dict_class(content):
    content["pythonClassName"] = f"{PLANTED}.Feature"


def as_legacy(content):
    content.clear()
    content.update(type=f"{PLANTED}.Feature", content={})


@pytest.mark.parametrize("change", [as_class, as_dict_class, as_legacy])
def test_no_class_that_a_set_names_is_imported(stored, monkeypatch, change):
    mark = plant(stored, monkeypatch)
    edit(part(stored) / "features.json", change)
    with pytest.raises(UserError, match="described otherwise"):
        records.open_set(stored, "phantom").source("xray", "train")
    with pytest.raises(UserError, match="described otherwise"):
        list(audit.search(stored, {}, {}))
    assert not mark.exists()
    assert PLANTED not in sys.modules
    with contextlib.suppress(Exception):  # the injury is one: TFDS's own reader runs the module
        tfds.builder_from_directory(part(stored))
    assert mark.exists()


def test_the_module_that_a_set_calls_its_own_is_not_looked_for(stored, monkeypatch):
    mark = plant(stored, monkeypatch)
    edit(part(stored) / "dataset_info.json", lambda info: info.update(moduleName=PLANTED, configName="x"))
    assert len(records.open_set(stored, "phantom").source("xray", "train"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "template", ["../../../other/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "/etc/passwd", "{DATASET}", ""]
)
def test_a_template_names_no_other_files(stored, template):
    edit(part(stored) / "dataset_info.json", lambda info: info["splits"][0].update(filepathTemplate=template))
    with pytest.raises(UserError, match="described otherwise"):
        records.open_set(stored, "phantom").size("xray", "train")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "xray-train.array_record-00000-of-00001"])
def test_links_do_not_leave_the_set(stored, name):
    path = part(stored) / name
    shutil.move(path, stored / "elsewhere")
    path.symlink_to(stored / "elsewhere")
    with pytest.raises(UserError, match="leads out of the set's folder"):
        records.open_set(stored, "phantom").size("xray", "train")
    path.unlink()
    inside = stored / "phantom" / "inside"  # where a link may lead
    shutil.move(stored / "elsewhere", inside)
    path.symlink_to(inside)
    (stored / "linked").mkdir()
    (stored / "linked" / "phantom").symlink_to(stored / "phantom")  # as the folder of the set itself may be one
    assert len(records.open_set(stored / "linked", "phantom").source("xray", "train"))


def huge(content):
    fields(content)["image"]["tensor"]["shape"]["dimensions"] = ["1000000000", "1000000000"]


def negative(content):
    fields(content)["image"]["tensor"]["shape"]["dimensions"] = ["-5", "256"]


def objects(content):
    fields(content)["labels"]["tensor"]["dtype"] = "object"


def no_shape(content):
    fields(content)["labels"]["tensor"]["shape"] = [[[]]]


def a_list(content):
    content["featuresDict"] = ["features"]


def a_path(content):
    fields(content)["../x"] = fields(content).pop("id")


def no_id(content):
    fields(content)["Id"] = fields(content).pop("id")


def no_pixels(content):
    del fields(content)["image"]


def numbers_for_a_report(content):
    fields(content)["report"] = fields(content)["labels"]


@pytest.mark.parametrize(
    "change", [huge, negative, objects, no_shape, a_list, a_path, no_id, no_pixels, numbers_for_a_report]
)
def test_features_that_no_writer_makes_are_refused_in_one_line(stored, change):
    edit(part(stored) / "features.json", change)
    with pytest.raises(UserError, match="described otherwise") as refusal:
        records.open_set(stored, "phantom").source("xray", "train")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("lengths", [["1000000000"], ["-1"], ["0"], ["a"], [None], "12", {"a": 1}, ["1"] * 200_000])
def test_numbers_of_records_are_held_against_the_files(stored, lengths):
    edit(part(stored) / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=lengths))
    with pytest.raises(UserError):
        records.open_set(stored, "phantom").size("xray", "train")


@pytest.mark.parametrize("name", ["xray/1.0.0/features.json", "xray/1.0.0/dataset_info.json", "contract.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{", "[]", "3", '{"a":' * 60 + "1" + "}" * 60, "9" * 5000, "\ud800"]
)
def test_json_of_a_set_that_is_none_is_one_line(stored, name, content):
    (stored / "phantom" / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError):
        records.open_set(stored, "phantom").size("xray", "train")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "nodule"},
        {"labels": ["a", "a"]},
        {"labels": [1]},
        {"prompts": {"nodule": ["x"]}},
        {"prompts": {"nodule": {"positive": [3]}}},
        {"records": []},
        {"format": "1"},
        {"source": None},
    ],
)
def test_a_contract_of_other_kinds_is_refused(stored, change):
    edit(stored / "phantom" / "contract.json", lambda content: content.update(change))
    with pytest.raises(UserError, match=contract.FILE):
        records.open_set(stored, "phantom")


def one_record(features, **values):
    return tfds.features.FeaturesDict(features).serialize_example(values)


def test_a_packed_field_is_not_unpacked_beyond_its_shape():
    stored = {"mask": tfds.features.Text()}
    bomb = zlib.compress(bytes(1 << 28), 9)
    assert len(bomb) < 1 << 19
    schema = tfds.features.FeaturesDict(
        {"mask": record_files.BoundedTensor(shape=(8, 8), dtype=np.uint8, encoding="zlib")}
    )
    for content in (bomb, zlib.compress(bytes(63)), zlib.compress(bytes(64))[:-2], b"", b"no stream"):
        with pytest.raises(ValueError, match="a record without"):
            record_files.decode(schema, one_record(stored, mask=content))
    assert not record_files.decode(schema, one_record(stored, mask=zlib.compress(bytes(64))))["mask"].any()


@pytest.mark.parametrize("record", [b"", b"\xff\xff", b"\n\x02\n\x00"])
def test_a_record_of_another_make_is_named_and_its_content_is_not(stored, record):
    path = part(stored) / "xray-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(record + b"Zaphod")
    writer.close()
    edit(part(stored) / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["1"]))
    with pytest.raises(UserError, match=r"record 0 of .* cannot be read") as refusal:
        records.open_set(stored, "phantom").source("xray", "train")[0]
    assert "Zaphod" not in str(refusal.value)
