import csv
import hashlib
import json
import os
import re
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import build as build_config
from data import job
from data.errors import UserError
from data.manifest import samples
from data.manifest import source as manifest
from data.reports import prompts, text
from data.source import Rejected

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"
KNOWN = {"a": "train", "g": "val", "h": "train", "2": "val", "5": "test", "6": "test"}
HEADER = ("path", "modality", "report", "patient", "split", "label:nodule", "label:effusion", "mask")
# Patients whose hashed split is known, so that every test has rows to train on.
TRAIN = [p for p in map(str, range(40)) if samples.hashed_split(p) == "train"]


@pytest.fixture
def folder(tmp_path):
    """A folder with films f0.png ... f7.png, a CT ct.nii.gz and a mask of each kind."""
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = cv2.GaussianBlur(rng.normal(size=(90, 120)), (0, 0), 5)
        cv2.imwrite(str(tmp_path / f"f{number}.png"), cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))
    mask = np.zeros((90, 120), np.uint8)
    mask[10:40, 20:60] = 255
    cv2.imwrite(str(tmp_path / "m0.png"), mask)
    hu = np.where(rng.random((30, 30, 20)) < 0.5, -900, 40).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    cube = np.zeros(hu.shape, np.uint8)
    cube[5:20, 5:20, 5:15] = 3
    nibabel.save(nibabel.Nifti1Image(cube, affine), tmp_path / "mct.nii.gz")
    return tmp_path


@pytest.fixture
def table(folder):
    """`table(rows, header=HEADER)`: writes a CSV of rows given as dicts and reads it."""

    def write(rows, header=HEADER, **dialect):
        path = folder / "films.csv"
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, header, restval="", **dialect)
            writer.writeheader()
            writer.writerows(rows)
        return manifest.read(path)

    return write


def film(number=0, **changes):
    row = {"path": f"f{number}.png", "modality": "xray", "report": f"Film {number}.", "patient": TRAIN[number]}
    return {**row, **changes}


def codes(rejected):
    return [(one.row, one.reason.partition(":")[0]) for one in rejected]


def test_rows_become_examples(table):
    rows = [
        film(0, **{"label:nodule": "1", "label:effusion": "0", "mask": "m0.png"}),
        film(1, **{"label:nodule": "-1"}),
        {**film(2), "path": "ct.nii.gz", "modality": "CT", "label:nodule": "1.0", "mask": "mct.nii.gz"},
    ]
    source = table(rows)
    assert source.labels == ("nodule", "effusion")
    assert source.rejected == ()
    examples = [source.convert(row) for row in source.rows]
    np.testing.assert_array_equal([example["labels"] for example in examples], [[1, 0], [np.nan, np.nan], [1, np.nan]])
    assert source.contract["uncertain"] == {"nodule": 1, "effusion": 0}
    assert [example["report"] for example in examples] == ["Film 0.", "Film 1.", "Film 2."]
    assert examples[0]["image"].dtype == np.uint8
    assert set(np.unique(examples[0]["lesion_mask"])) == {0, samples.LESION_OF_ANY_KIND}
    assert (examples[0]["lesion_mask"] > 0).sum() == pytest.approx(30 * 40 * (256 / 120) ** 2, rel=0.05)
    assert (examples[1]["lesion_mask"] == samples.UNANNOTATED).all()
    assert examples[2]["volume"].shape == examples[2]["lesion_mask"].shape == (32, 128, 128)
    assert (examples[2]["lesion_mask"] == samples.LESION_OF_ANY_KIND).any()
    assert source.annotations == {"lesion_mask"}
    assert len({row.key for row in source.rows}) == 3


def test_bad_rows_are_named_and_stop_nothing(table, folder):
    outside = folder.parent / "outside.png"
    cv2.imwrite(str(outside), np.arange(10000, dtype=np.uint8).reshape(100, 100))
    (folder / "link.png").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    rows = [
        (film(0), None),
        (film(1, report=""), "empty_report"),
        (film(1, report=" \n\t "), "empty_report"),
        (film(1, report="nan"), "empty_report"),
        (film(1, report="___ 12 ."), "empty_report"),
        (film(1, report="version https://git-lfs.github.com/spec/v1 oid"), "lfs_pointer"),
        (film(1, modality="mri"), "bad_modality"),
        (film(1, split="dev"), "bad_split"),
        (film(1, patient=" "), "no_patient"),
        (film(1, **{"label:nodule": "0.5"}), "bad_label"),
        (film(1, **{"label:nodule": "2"}), "bad_label"),
        (film(1, **{"label:nodule": "yes"}), "bad_label"),
        (film(1, path=""), "missing_image"),
        (film(1, path="none.png"), "missing_image"),
        (film(1, path="../outside.png"), "path_outside"),
        (film(1, path="link.png"), "path_outside"),
        (film(1, path="loop.png"), "io_error"),
        (film(1, path="x" * 5000), "io_error"),
        (film(1, path="."), "io_error"),
        (film(1, mask="../outside.png"), "path_outside"),
        (film(1, mask="none.png"), "missing_mask"),
        (film(1, path=str(outside)), None),
        (film(0), "duplicate_row"),
        (film(0, path="./f0.png", report="Another."), "duplicate_path"),
        (film(2), None),
    ]
    source = table([row for row, _ in rows])
    assert codes(source.rejected) == [(n, code) for n, (_, code) in enumerate(rows, 1) if code]
    advice = "copy the file in, or write its absolute path into the manifest"
    assert all(advice in one.reason for one in source.rejected if one.code == "path_outside")
    assert [row.number for row in source.rows] == [n for n, (_, code) in enumerate(rows, 1) if not code]


def test_a_bad_file_is_a_reject_that_says_nothing_of_the_report(table, folder):
    (folder / "f1.png").write_bytes(b"<html>")
    source = table([film(1, report="John Smith has a secret")])
    result = source.convert(source.rows[0])
    assert result == Rejected(1, "f1.png", "not_an_image: neither an image nor DICOM")


def test_an_unknown_failure_is_a_reject_too(table, monkeypatch):
    source = table([film(0)])

    def fail(path, note):
        raise KeyError("0x7f at John Smith")

    monkeypatch.setattr(samples.xrays, "read_film", fail)
    assert source.convert(source.rows[0]).reason == "unreadable: the reader failed with KeyError"


def test_a_row_with_too_few_fields(folder):
    path = folder / "films.csv"
    path.write_text("path,modality,report,patient\nf0.png,xray,Film.,1\nf1.png,xray\nf2.png,xray,a,b,c\n")
    source = manifest.read(path)
    assert codes(source.rejected) == [(2, "wrong_fields"), (3, "wrong_fields")]
    assert source.rejected[0].path == "f1.png"


@pytest.mark.parametrize(
    ("delimiter", "encoding", "newline"),
    [(",", "utf-8", "\n"), (",", "utf-8-sig", "\r\n"), (";", "cp1252", "\r\n"), ("\t", "utf-16", "\n")],
)
def test_dialects_of_csv(folder, delimiter, encoding, newline):
    lines = [
        delimiter.join(("Path", " modality", "report", "patient")),
        delimiter.join(("f0.png", "xray", '"Año; una línea,\notra ""más"""', "1")),
        "",
        delimiter.join(("f1.png", "xray", "No effusion.", "2")),
    ]
    (folder / "films.csv").write_bytes((newline.join(lines) + newline).encode(encoding))
    source = manifest.read(folder / "films.csv")
    assert [row.number for row in source.rows] == [1, 2]
    assert source.convert(source.rows[0])["report"] == 'Año; una línea, otra "más"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the columns path, modality, report, patient"),
        ("sep=;", "lacks the columns path, modality, report, patient"),
        ("path,modality,patient\n", "lacks the columns report"),
        ("path,modality,report,patient,patient\n", "patient more than once"),
        ("path,modality,report,patient,label:\n", "without a label's name"),
        ('path,modality,report,patient\na.png,xray,"never closed,1\nb.png,xray,x,2\n', "not valid CSV"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_tables_that_are_none(folder, content, message):
    (folder / "films.csv").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        manifest.read(folder / "films.csv")
    assert "\n" not in str(caught.value)


def written(folder, content):
    """The source of a manifest of these bytes, and the rejected rows by code."""
    (folder / "films.csv").write_bytes(content)
    source = manifest.read(folder / "films.csv")
    return source, codes(source.rejected)


def test_one_wrong_byte_costs_its_row_and_no_accent_of_the_others(folder):
    """Two rows are UTF-8, one was pasted in from Windows-1252; its path is named in the ledger all the same."""
    head, good = "path,modality,report,patient\n", "f{}.png,xray,Sin derrame en el pulmón. Año {}.,{}\n"
    bad = "f2.png,xray,pulmón,3\nfé.png,xray,x,4\n".encode("cp1252")
    source, rejected = written(folder, (head + good.format(0, 1, 1) + good.format(1, 2, 2)).encode() + bad)
    assert rejected == [(3, "bad_encoding"), (4, "bad_encoding")]
    assert [one.path for one in source.rejected] == ["f2.png", "f\ufffd.png"]
    assert source.rows[0].info.report == "Sin derrame en el pulmón. Año 1."
    with pytest.raises(UserError, match="bytes in its first line"):
        written(folder, b"path,modality,report,patient,label:n\xf3\n" + good.format(0, 1, 1).encode())


def test_cells_of_any_length_are_read(folder):
    """The csv module alone refuses the whole table for one cell above 131,072 characters."""
    long = "No effusion. " * 20_000
    source, rejected = written(
        folder, f"path,modality,report,patient,note\nf0.png,xray,{long},1,\nf1.png,xray,x,2,{long}\n".encode()
    )
    assert rejected == []
    assert len(source.rows[0].info.report) == len(long) - 1


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\npath;modality;report;patient\nf0.png;xray;x, y, z;1\n",
        b'"sep=;"\r\npath;modality;report;patient\r\nf0.png;xray;x, y, z;1\r\n;;;\r\n ; ;;\r\n',
        b"\xef\xbb\xbfsep=|\npath|modality|report|patient\nf0.png|xray|x, y, z|1\n|||\n",
        b"path|modality|report|patient\n|||\nf0.png|xray|x, y, z|1\n",
        "sep=\t\npath\tmodality\treport\tpatient\nf0.png\txray\tx, y, z\t1\n".encode("utf-16"),
    ],
)
def test_what_spreadsheets_write(folder, content):
    source, rejected = written(folder, content)
    assert rejected == []
    assert [(row.number, row.info.report) for row in source.rows] == [(1, "x, y, z")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,modality,report,patient\n".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        ("path,modality,report,patient\n".encode("utf-16")[:-1], "UTF-16 that is cut short"),
    ],
)
def test_utf_16_that_is_none(folder, content, message):
    with pytest.raises(UserError, match=message):
        written(folder, content)


def test_splits_by_other_names_and_numbers_with_a_decimal_comma(folder):
    lines = (
        "path;modality;report;patient;split;label:nodule",
        "f0.png;xray;x;1234;Validation;1,0",
        "f1.png;xray;x;1234,0;;-1,00",
        "f2.png;xray;x;1234.0;valid;0,0",
        "f3.png;xray;x;5;training;0",
        "f4.png;xray;x;6;testing;0,5",
        "f5.png;xray;x;1,2E+11;;0",
        "f6.png;xray;x;123E4A;;0",
    )
    source, rejected = written(folder, "\n".join(lines).encode())
    assert rejected == [(5, "bad_label"), (6, "rounded_patient")]
    assert {row.info.patient for row in source.rows if row.split == "val"} == {source.rows[0].info.patient}
    assert [row.split for row in source.rows][:4] == ["val", "val", "val", "train"], "one person has one split"
    np.testing.assert_array_equal([row.info.labels for row in source.rows][:3], [[1], [np.nan], [0]])


def test_one_person_in_two_spellings_is_not_in_two_splits(table):
    rows = [film(0, patient="1234", split="train"), film(1, patient="1234.0", split="test")]
    assert codes(table(rows).rejected) == [(1, "leak_patient"), (2, "leak_patient")]


def test_words_for_nothing_name_no_patient_and_no_study(table):
    """What `df.astype(str)` makes of missing values: all rows of a patient "nan" would be one person."""
    header = ("path", "modality", "report", "patient", "study", "view", "series")
    words = ("nan", "N/A", "None", "-")
    rows = [film(number, patient=word) for number, word in enumerate(words)]
    source = table([*rows, film(4, study="nan", view="NaN", series="None")], header)
    assert codes(source.rejected) == [(number, "no_patient") for number in range(1, 5)]
    assert source.rows[0].info.columns == (("study", ""), ("view", ""), ("series", ""))


def test_a_thousands_separator_merges_no_two_patients(table):
    """Spreadsheets and pandas write 1 as 1.0, 1,0 or 1.00; 1,000 and 2.000 are thousands."""
    names = ("1", "1.0", "1,00", "1,000", "2.000", "2")
    source = table([film(number, patient=name) for number, name in enumerate(names)])
    assert len({row.info.patient for row in source.rows}) == 4
    assert len({row.info.patient for row in source.rows[:3]}) == 1


HEADERS = {
    ".mhd": "ObjectType = Image\nNDims = 3\nElementDataFile = scan1.raw\n",
    ".nhdr": "NRRD0004\ntype: short\ndata file: scan1.raw\n\n",
    ".hdr": "",
}


@pytest.mark.parametrize("suffix", HEADERS)
def test_the_state_of_a_header_is_that_of_its_own_two_files(tmp_path, monkeypatch, suffix):
    """A new scan10 beside scan1 changes nothing; the folder, which may hold thousands, is not listed."""
    body = tmp_path / ("scan1.img" if suffix == ".hdr" else "scan1.raw")
    header = tmp_path / f"scan1{suffix}"
    header.write_text(HEADERS[suffix])
    body.write_bytes(b"voxels")
    facts = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in sorted((header, body))]
    as_before = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]  # sets on disk are recognised by it
    monkeypatch.setattr(Path, "iterdir", lambda folder: pytest.fail("the folder was listed"))
    assert samples.state(header) == as_before
    for name in ("scan10.raw", f"scan10{suffix}", "scan1_mask.nii"):
        (tmp_path / name).write_bytes(b"other")
    assert samples.state(header) == as_before
    body.write_bytes(b"other voxels")
    assert samples.state(header) != as_before
    body.unlink()
    assert samples.state(header), "the reader says what is missing"


def test_a_series_of_links_as_in_a_clone_of_git_annex(folder, tmp_path):
    """Each slice links to an object of the clone: inside the manifest's folder it is read, outside it is not."""
    (folder / "series").mkdir()
    for place in (folder / ".git/annex", tmp_path.parent / f"{tmp_path.name}-elsewhere"):
        place.mkdir(parents=True)
        (place / "object").write_bytes(b"x")
        link = folder / "series" / "1.dcm"
        link.unlink(missing_ok=True)
        link.symlink_to(place / "object")
        line = "series,ct,x,1\n" if "annex" in str(place) else f"series,ct,x,1\n{folder / 'series'},ct,y,1\n"
        source, rejected = written(folder, f"path,modality,report,patient\n{line}".encode())
        assert len(source.rows) == 1, "an absolute path may lead anywhere"
        assert rejected == ([] if "annex" in str(place) else [(1, "path_outside")])


def test_a_link_whose_content_was_not_fetched(folder):
    (folder / "series").mkdir()
    (folder / "series/1.dcm").symlink_to(folder / ".git/annex/object")
    _, rejected = written(folder, b"path,modality,report,patient\nseries,ct,x,1\n")
    assert rejected == [(1, "missing_file")]


def test_a_header_without_rows_says_so(folder, tmp_path):
    (folder / "films.csv").write_text("path,modality,report,patient\n,,,\n")
    config = build_config.get_config("manifest")
    config.source, config.data_dir = str(folder / "films.csv"), str(tmp_path / "records")
    with pytest.raises(UserError, match=r"films\.csv has nothing to build: looked for rows below its first line"):
        job.run(config, tmp_path / "run")


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match="cannot read the manifest"):
        manifest.read(tmp_path / "none.csv")


def test_a_patient_in_two_splits_is_left_out(table):
    rows = [
        film(0, patient="a", split="train"),
        film(1, patient="a", split="test"),
        film(2, patient="a"),
        film(3, patient="b", split="val"),
        film(4, patient="b"),
        film(5, patient="c"),
    ]
    source = table(rows)
    assert codes(source.rejected) == [(1, "leak_patient"), (2, "leak_patient"), (3, "leak_patient")]
    assert [row.split for row in source.rows] == ["val", "val", samples.hashed_split("c")]


def test_hashed_splits_are_stable_and_in_proportion():
    splits = [samples.hashed_split(f"patient {n}") for n in range(4000)]
    shares = [splits.count(split) / 4000 for split in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    # sha256sum's first 16 digits over 2**64, computed without this code.
    assert [samples.hashed_split(name) for name in KNOWN] == list(KNOWN.values())


def test_prompts_assert_and_deny(table):
    pair = table([film(0)]).prompts["nodule"]
    assert pair["positive"][:2] == ["nodule", "there is nodule"]
    assert pair["negative"][0] == "no nodule"
    assert len(pair["positive"]) == len(pair["negative"])
    assert prompts.of_label("Pleural_Effusion")["positive"][0] == "pleural effusion"


def test_a_changed_file_is_another_source(table, folder):
    before = repr(table([film(0)]).rows)
    assert repr(table([film(0)]).rows) == before
    os.utime(folder / "f0.png", (1, 1))
    assert repr(table([film(0)]).rows) != before


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  two \r\n lines\t.", "two lines ."),
        ("nul\x00 bell\x07 \ufeffmark", "nul bell mark"),
        ("cafe\u0301", "café"),
        ("a\u200bb \u202ec", "ab c"),
    ],
)
def test_text_is_cleaned(raw, cleaned):
    assert text.clean(raw) == cleaned


def test_the_job_from_its_config(table, folder, capsys):
    rows = [film(n) for n in range(8)]
    rows[3]["report"] = ""
    table(rows)
    config = build_config.get_config("manifest")
    config.source, config.data_dir, config.name = (str(folder / "films.csv"), str(folder / "out"), "mine")
    config.workers = 2
    config.dry_run = True
    job.run(config, folder / "run")
    shown = capsys.readouterr().out
    assert "row 4: f3.png: empty_report" in shown
    assert "no set was written" in shown
    assert not (folder / "out").exists()
    config.dry_run = False
    job.run(config, folder / "run")
    shown = capsys.readouterr().out
    assert "empty_report" in shown
    assert "--config.data=mine" in shown
    ledger = (folder / "out" / "mine.rejected.jsonl").read_text()
    assert json.loads(ledger) == {"row": 4, "path": "f3.png", "reason": "empty_report: the report has no words"}
    assert len(tfds.builder_from_directory(folder / "out/mine/xray/1.0.0").as_data_source("train")) == 7
    config.name, config.strict = "strict", True
    with pytest.raises(UserError, match=r"config\.strict"):
        job.run(config, folder / "run")
    assert not (folder / "out" / "strict").exists()


def test_a_table_of_test_rows_makes_a_set_for_evaluation(table, folder, capsys):
    row = {"modality": "xray", "report": "no nodule", "split": "test", "label:nodule": "0"}
    table([{**row, "path": f"f{n}.png", "patient": f"p{n}"} for n in range(3)])
    config = build_config.get_config("manifest")
    config.update(source=str(folder / "films.csv"), data_dir=str(folder / "out"), name="exams", workers=1)
    job.run(config, folder / "run")
    contract = json.loads((folder / "out" / "exams" / "contract.json").read_text())
    assert contract["splits"] == {"xray": {"train": 0, "val": 0, "test": 3}}
    assert re.search(r"configs/evaluate.py --config.checkpoint=\S+ --config.data=exams", capsys.readouterr().out)


def test_a_table_without_any_report_makes_a_set_for_evaluation(table, folder, capsys, caplog):
    rows = [film(n, report=" " * n, split=split) for n, split in enumerate(("train", "val", "test", "test"))]
    for row in rows:
        row["label:nodule"] = row["path"][1]
    rows[2]["label:nodule"], rows[3]["label:nodule"] = "", "-1"
    source = table(rows)
    assert [row.split for row in source.rows] == ["train", "val", "test", "test"]
    assert source.rejected == ()
    assert "no row of" in caplog.text
    config = build_config.get_config("manifest")
    config.update(source=str(folder / "films.csv"), data_dir=str(folder / "out"), name="exams", workers=1, dry_run=True)
    job.run(config, folder / "run")
    assert "language" not in capsys.readouterr().out
    config.dry_run = False
    job.run(config, folder / "run")
    contract = json.loads((folder / "out" / "exams" / "contract.json").read_text())
    assert contract["source"]["reports"] is None, "as that of a public set without reports"
    assert contract["splits"] == {"xray": {"train": 1, "val": 1, "test": 2}}
    assert "configs/evaluate.py" in capsys.readouterr().out
    records = tfds.builder_from_directory(folder / "out/exams/xray/1.0.0").as_data_source("test")
    assert [record["report"] for record in records] == [b"", b""]


def test_a_blank_report_among_others_or_without_labels_is_rejected(table):
    rows = [film(0, report=""), film(1, report=""), film(2)]
    assert codes(table(rows).rejected) == [(1, "empty_report"), (2, "empty_report")]
    header = ("path", "modality", "report", "patient", "split")
    assert codes(table(rows[:2], header).rejected) == [(1, "empty_report"), (2, "empty_report")]
    assert "reports" not in table(rows).contract


def test_a_job_without_a_table_says_so(tmp_path):
    with pytest.raises(UserError, match=r"config\.source is empty"):
        job.run(build_config.get_config("manifest"), tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_refuses_what_would_take_more_memory_than_the_job_allows(table, folder, workers):
    table([film(n) for n in range(3)])
    cv2.imwrite(str(folder / "f1.png"), np.zeros((6000, 6000, 3), np.uint8))
    config = build_config.get_config("manifest")
    config.source, config.data_dir = str(folder / "films.csv"), str(folder / "out")
    config.workers, config.worker_memory_gb = workers, 0.5
    job.run(config, folder / "run")
    (line,) = (folder / "out" / "manifest.rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"].startswith("too_large: reading it would take 0.9 GB of memory, config.worker_")
    config.worker_memory_gb = 0.1
    with pytest.raises(UserError, match=r"config\.worker_memory_gb is 0\.1: at least 0\.5"):
        job.run(config, folder / "run")


@pytest.mark.skipif(not SHARED.exists(), reason="no real data beside the project (../shared/data)")
def test_the_real_manifest(tmp_path):
    source = manifest.read(SHARED / "manifest.csv")
    assert (len(source.rows), source.rejected) == (118, ())
    config = build_config.get_config("manifest")
    config.source, config.data_dir, config.name = (str(SHARED / "manifest.csv"), str(tmp_path), "real")
    config.keep_ids = True
    job.run(config, tmp_path / "run")
    contract = json.loads((tmp_path / "real" / "contract.json").read_text())
    assert contract["rejected"] == 0
    assert sum(sum(splits.values()) for splits in contract["splits"].values()) == 118
    marks = {mark["case"]: mark for mark in _nodule_marks()}
    checked = 0
    for split in contract["splits"]["ct"]:
        if not contract["splits"]["ct"][split]:
            continue
        for record in tfds.builder_from_directory(tmp_path / "real/ct/1.0.0").as_data_source(split):
            _check_chest(record["volume"])
            side = marks.get(record["patient"].decode())
            if side:
                _, _, x = np.nonzero(record["lesion_mask"] == samples.LESION_OF_ANY_KIND)
                assert (x.mean() > 64) == (side["side"] == "left")
                checked += 1
    assert checked == 2


def _nodule_marks():
    """The side of the nodule in the reports of the real CTs that are marked."""
    for row in csv.DictReader((SHARED / "manifest.csv").read_text().splitlines(keepends=True)):
        if row["modality"] == "ct" and "nodule" in row["report"]:
            yield {"case": row["patient"], "side": "left" if "left" in row["report"] else "right"}


def _check_chest(volume):
    """Whether a chest lies as the contract says: spine behind, lungs beside, heart to the left."""
    middle = volume[:, :, 54:74]
    body = np.flatnonzero((middle > -300).mean((0, 2)) > 0.3)
    slices_with_bone = (middle > 150).any(2).sum(0)  # only the spine is in nearly all of them
    assert slices_with_bone.argmax() > (body[0] + body[-1]) / 2
    inner = volume[12:20, 20:108]
    assert (inner[..., 20:60] < -600).any()
    assert (inner[..., 68:108] < -600).any()


def test_pictures_alone_need_no_patient_and_no_report(folder):
    path = folder / "pictures.csv"
    path.write_text(
        "modality,path,report,label:x,sha256\n"
        "xray,f0.png,,maybe,\n"
        "CT,ct.nii.gz,  A nodule. ,7,\n"
        "xray,f0.png,,maybe,\n"
        "mri,f1.png,,,\n"
        "xray,f2.png,,,12\n"
        "xray,../f3.png,,,\n"
        "xray,f4.png\n"
    )
    source = manifest.read_pictures(path)
    assert [(row.path, row.modality, row.info.report) for row in source.rows] == [
        ("f0.png", "xray", ""),
        ("ct.nii.gz", "ct", "A nodule."),
    ]
    image, volume = (source.convert(row) for row in source.rows)
    assert image["image"].shape == (256, 256)
    assert volume["volume"].shape == (32, 128, 128)
    assert codes(source.rejected) == [
        (3, "duplicate_row"),
        (4, "bad_modality"),
        (5, "bad_hash"),
        (6, "missing_image"),
        (7, "wrong_fields"),
    ]
    path.write_text("path\nf0.png\n")
    with pytest.raises(UserError, match="lacks the columns modality in its first line: it needs path, modality, and"):
        manifest.read_pictures(path)


def test_studies_are_of_one_patient_and_views_stay_as_they_are(table):
    rows = [
        film(0, study="1.0", view="Lateral", series=""),
        film(1, study="1", view="PA", series=""),
        film(2, study="", view="", series="", patient=TRAIN[0]),
        film(3, study="1", view="ap", series="", patient=TRAIN[0]),
    ]
    source = table(rows, ("path", "modality", "report", "patient", "study", "view", "series"))
    assert source.columns == ("study", "view", "series")
    assert source.contract["columns"] == ["study", "view", "series"]
    records = [source.convert(row) for row in source.rows]
    first, other, blank, same = records
    assert first["study"] == same["study"]
    assert first["study"] != other["study"], "of another patient"
    assert len(first["study"]) == 16
    assert "1" not in (first["study"], other["study"])
    assert blank["study"] == ""
    assert [one["view"] for one in records] == ["Lateral", "PA", "", "ap"]
    plain = table([film(0)], ("path", "modality", "report", "patient"))
    assert plain.columns == ()
    assert not {"columns", *source.columns} & {*plain.contract, *plain.convert(plain.rows[0])}
    assert "columns" not in repr(plain.rows[0])
