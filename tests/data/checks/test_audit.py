import bz2
import collections
import csv
import errno
import gzip
import io
import json
import lzma
import os
import shutil
import threading
import tracemalloc
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer

from configs import build as build_config
from data import job
from data.checks import audit, audit_files
from data.errors import UserError
from data.manifest import privacy
from data.readers import dicom_tags
from tests import dicoms
from unimedi_jax.input import records

REPORTS = [
    "There is a small nodule in the right upper lobe, seen on this film for the first time.",
    "The heart is enlarged, with a small effusion on the left side and congested vessels.",
    "Lungs are clear without any focal consolidation, effusion or pneumothorax on either side today.",
]
PATIENTS = ["Zaphod-4711", "Trillian-4712", "Marvin-4713"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three films, one of them DICOM with a name in it, and their CSV."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(3):
        grey = cv2.normalize(cv2.GaussianBlur(rng.normal(size=(64, 80)), (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
        name = f"f{n}.dcm" if n == 0 else f"f{n}.png"
        if n == 0:
            _dicom(folder / name, (grey * 16).astype(np.uint16))
        else:
            cv2.imwrite(str(folder / name), grey)
        rows.append({"path": name, "modality": "xray", "report": REPORTS[n], "patient": PATIENTS[n], "split": "train"})
    rows.append({**rows[1], "path": "gone.png"})
    with (folder / "films.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _dicom(path, pixels):
    data = dicoms.dataset(
        pixels,
        Modality="DX",
        SOPClassUID=pydicom.uid.DigitalXRayImageStorageForPresentation,
        SOPInstanceUID="1.2.840.99.77",
        BitsStored=12,
        HighBit=11,
        PatientName="Beeblebrox^Zaphod",
        PatientID="HHGG0042",
        AccessionNumber="ACC998877",
    )
    data.add_new(0x00091001, "LO", "a private secret")
    data.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def pristine(raw, tmp_path_factory):
    return _build(raw, tmp_path_factory.mktemp("records"))


@pytest.fixture
def built(pristine, tmp_path):
    """A set whose files a test may change."""
    return Path(shutil.copytree(pristine, tmp_path / "mine"))


def _build(raw, data_dir, **settings):
    config = build_config.get_config("manifest")
    config.update(source=str(raw / "films.csv"), data_dir=str(data_dir), name="mine", workers=1, **settings)
    job.run(config, data_dir / "run")
    return data_dir / "mine"


def findings(folder, raw):
    names, runs, _ = audit.needles(raw / "films.csv")
    return list(audit.search(folder, names, runs))


def settings(folder, raw, *, reports=False):
    return types.SimpleNamespace(path=str(folder), source=str(raw / "films.csv"), reports=reports)


def test_a_built_set_holds_no_name(built, raw, capsys):
    assert findings(built, raw) == []
    audit.run(settings(built, raw))
    printed = capsys.readouterr().out
    assert "nothing found in what was searched" in printed
    assert "passed over: 3 report fields of records, but for identifiers: config.reports=True searches them" in printed
    assert "passed over: pixels and voxels" in printed


def test_report_fields_are_searched_when_asked(built, raw, capsys):
    with pytest.raises(UserError, match="report text in 3 places"):
        audit.run(settings(built, raw, reports=True))
    printed = capsys.readouterr().out
    assert "report fields of records" not in printed
    assert printed.count("field report") == 3


def test_what_is_passed_over_is_counted(raw, tmp_path, monkeypatch):
    text = b"Beeblebrox Zaphod"
    (tmp_path / "a.xz").write_bytes(lzma.compress(text))
    (tmp_path / "a.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "deep").write_bytes(gzip.compress(gzip.compress(gzip.compress(text))))
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd" + text[::-1])
    (tmp_path / "link").symlink_to(tmp_path / "a.xz")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text)[:-9])
    (tmp_path / "stray.array_record-00000-of-00001").write_bytes(b"records")
    with zipfile.ZipFile(tmp_path / "big.zip", "w") as archive:
        archive.writestr("big", bytes(2000))
    monkeypatch.setattr(audit_files, "MAX_MEMBER", 1000)
    names, runs, _ = audit.needles(raw / "films.csv")
    passed = collections.Counter()
    places = [place for place, _ in audit.search(tmp_path, names, runs, passed)]
    assert places == ["a.bz2", "a.xz"]
    assert passed == {
        "archives inside archives inside archives": 1,
        "files packed by Zstandard": 1,
        "symbolic links, which are not followed": 1,
        "packed files that are damaged": 1,
        "files of records that belong to no built set": 1,
        "members of archives, above 1 GiB": 1,
    }


def test_ids_that_were_kept_are_found(raw, tmp_path):
    with_ids = _build(raw, tmp_path, keep_ids=True)
    hits = findings(with_ids, raw)
    assert {what for _, what in hits} == {f"the patient of row {n}" for n in (1, 2, 3)}
    assert all("field patient" in place for place, _ in hits)


def test_persons_are_searched_for_wherever_the_header_names_them(tmp_path):
    other, request = pydicom.Dataset(), pydicom.Dataset()
    other.PatientID, request.RequestedProcedureID, request.RequestingPhysician = "OLD-77123", "RP-5512", "Dent^Arthur"
    names = {"PatientName": "Yamada^Tarou=山田^太郎", "PhysiciansOfRecord": ["Prefect^Ford", "Jeltz^Prostetnic"]}
    film = dicoms.dataset(np.zeros((8, 8), np.uint16), Modality="DX", **names)
    film.SpecificCharacterSet = "ISO_IR 192"
    film.OtherPatientIDsSequence, film.RequestAttributesSequence = [other], [request]
    # What says nothing of a patient may be damaged.
    film.add_new(0x00091002, "US", [1, 2])
    film.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    whole = (tmp_path / "a.dcm").read_bytes()
    assert whole.count(b"\x09\x00\x02\x10US") == 1
    (tmp_path / "a.dcm").write_bytes(whole.replace(b"\x09\x00\x02\x10US", b"\x09\x00\x02\x10FD"))
    (tmp_path / "films.csv").write_text("patient,path,modality,report\n,a.dcm,xray,Clear.\n")
    words, runs, left_out = audit.needles(tmp_path / "films.csv")
    assert not left_out[audit.UNREADABLE]
    (tmp_path / "run").mkdir()
    texts = {"Tarou Yamada": "PatientName", "old-77123": "PatientID", "rp 5512": "RequestedProcedureID"}
    texts |= {
        "山田 太郎": "PatientName",
        "Dr. Arthur Dent": "RequestingPhysician",
        "Ford Prefect": "PhysiciansOfRecord",
    }
    for text, what in texts.items():
        (tmp_path / "run" / "log").write_text(f"seen by {text}, yesterday")
        assert list(audit.search(tmp_path / "run", words, runs)) == [("log", f"DICOM {what} of row 1")]


@pytest.mark.parametrize(
    "kind", ["log", "json", "html", "utf-16", "gzip", "zip", "name", "tensorboard", "translations"]
)
def test_a_planted_name_is_found_and_nothing_else(raw, tmp_path, kind):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.4711471247134714}\n')
    (folder / "innocent.txt").write_text("The heart and a small nodule. Zaphod went home. 4711 4712")
    text = 'note: "Beeblebrox,\n Zaphod" seen'
    plant = folder / "plant"
    if kind == "log":
        plant.write_text(text)
    elif kind == "json":
        plant.write_text(json.dumps({"note": "Beeblebrox\u005eZaphod \u00fc"}))
    elif kind == "html":
        plant.write_text("<p>Beeblebrox&nbsp;<b> Zaphod</b></p>".replace("<b>", ""))
    elif kind == "utf-16":
        plant.write_bytes(text.encode("utf-16"))
    elif kind == "gzip":
        plant.write_bytes(gzip.compress(text.encode()))
    elif kind == "zip":
        with zipfile.ZipFile(plant, "w") as archive:
            archive.writestr("a/b.txt", text)
    elif kind == "tensorboard":
        writer = event_file_writer.EventFileWriter(str(folder / "tensorboard"))
        tag = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag="Beeblebrox_Zaphod", simple_value=1)])
        writer.add_event(event_pb2.Event(step=1, summary=tag))
        writer.close()
        (plant,) = (folder / "tensorboard").iterdir()
    elif kind == "translations":
        plant = folder / ".translations" / "0f.jsonl"
        plant.parent.mkdir()
        plant.write_text(json.dumps(["hash", "Patient Beeblebrox, Zaphod."]) + "\n")
    else:
        plant = folder / "Beeblebrox_Zaphod.png"
        plant.write_bytes(b"\x89PNG")
    assert findings(folder, raw) == [(str(plant.relative_to(folder)), "DICOM PatientName of row 1")]
    with pytest.raises(UserError, match="report text in 1 places"):
        audit.run(settings(folder, raw))


def test_a_short_identifier_is_found_in_a_text_and_not_by_chance_in_numbers(tmp_path):
    names = {("zq9x",): "the patient of row 1", ("longname",): "the patient of row 2"}
    (tmp_path / "numbers").write_bytes(b"\xff\x00 zq9x \xfe longname \xfa")
    (tmp_path / "text").write_text("seen: zq9x.")
    hits = [("numbers", "the patient of row 2"), ("text", "the patient of row 1")]
    assert list(audit.search(tmp_path, names, {})) == hits


def test_cells_are_stripped_and_a_series_is_read_past_what_cannot_be(tmp_path, capsys):
    series = tmp_path / "series"
    for folder in (series / ".git", series / "thumbnails"):
        folder.mkdir(parents=True)
    (series / "0.dcm").symlink_to("nowhere")
    (series / "0.txt").write_text("notes")
    _dicom(series / "1.dcm", np.zeros((64, 64), np.uint16))
    rows = ["patient, path, modality, report", "p0000001, series, ct, Clear.", "p0000002, gone.dcm, xray, Clear."]
    (tmp_path / "films.csv").write_text("\n".join(rows))
    names, _, left_out = audit.needles(tmp_path / "films.csv")
    assert {"DICOM PatientName of row 1", "DICOM PatientID of row 1"} <= set(names.values())
    assert left_out[audit.UNREADABLE] == 2
    (tmp_path / "run").mkdir()
    audit.run(settings(tmp_path / "run", tmp_path))
    assert "not searched for: 2 files of the source that cannot be read" in capsys.readouterr().out


def _in_pieces(content: bytes, length: int, monkeypatch) -> list[tuple[tuple[str, ...], bool]]:
    """The words of every text of a file that is read in blocks of this length."""
    monkeypatch.setattr(audit_files, "BLOCK", length)
    texts = audit_files.texts(io.BytesIO(content), collections.Counter())
    return [(sum((audit.fold(audit._unescaped(one)) for one in pieces), ()), kind) for pieces, kind in texts]


def test_a_file_in_pieces_has_the_words_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    parts = [
        "Zaphod",
        "Beeble",
        "\\u005e",
        "\\n",
        "&nbsp;",
        "&amp;",
        "&eacute",
        "&#225;",
        "e\u0301",
        "=\u0338",
        "ß",
        "中文",
    ]
    parts += [*" \t\n\r.,\"'<>/_-", "\u200b", "\ufeff", "\x1c", "\x85", "\x00", "😀", "x" * 40, "12345"]
    for _ in range(100):
        text = "".join(rng.choice(parts, 40))
        for content in (text.encode(), text.encode("utf-16"), bytes(rng.integers(0, 256, 200, np.uint8))):
            whole = _in_pieces(content, 1 << 20, monkeypatch)
            monkeypatch.setattr(audit_files, "LONGEST", 100)
            assert [_in_pieces(content, length, monkeypatch) for length in (7, 32)] == [whole] * 2


def test_what_lies_across_two_pieces_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_files, "BLOCK", 64)
    needles = {("beeblebrox", "zaphod"): "a name"}, {tuple("abcdefgh"): "a report"}
    for start in range(60, 70):
        (tmp_path / "text").write_text(f"{'x' * start} Beeblebrox{' ' * 200}Zaphod a b c d, {'-' * 100} e f g h")
        assert {what for _, what in audit.search(tmp_path, *needles)} == {"a name", "a report"}


def test_a_file_takes_the_memory_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_files, "BLOCK", 1 << 11)
    (tmp_path / "weights").write_bytes(np.random.default_rng(0).bytes(1 << 16))
    needles = {("beeblebrox", "zaphod"): "a name"}, {tuple("abcdefgh"): "a report"}
    assert list(audit.search(tmp_path, *needles)) == []  # imports what is imported on first use
    tracemalloc.start()
    assert list(audit.search(tmp_path, *needles)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20, "the words of the whole take 5 MB"


def test_report_text_outside_the_report_field_is_found(built, raw):
    words = REPORTS[1].split()
    (built / "contract.json").write_text(
        (built / "contract.json").read_text().replace('"name": "mine"', f'"name": "{" ".join(words[2:16])}"')
    )
    assert {what for _, what in findings(built, raw)} == {"the report of row 2"}


def test_the_ledger_s_paths_are_the_user_s_own_but_its_reasons_are_not(built, pristine, raw, capsys):
    assert json.loads((pristine.parent / "mine.rejected.jsonl").read_text())["path"] == "gone.png"
    ledger = built.parent / "mine.rejected.jsonl"
    ledger.write_text(json.dumps({"row": 4, "path": "Zaphod-4711/gone.png", "reason": "io_error"}) + "\n")
    assert findings(built.parent, raw) == []
    audit.run(settings(built.parent, raw))
    assert "paths of the source in mine.rejected.jsonl: do not pass this list" in capsys.readouterr().out
    ledger.write_text(json.dumps({"row": 4, "path": "gone.png", "reason": "io_error: Zaphod-4711"}) + "\n")
    assert len(findings(built.parent, raw)) == 1
    ledger.write_text("[" * 99_999 + "\nZaphod-4711\n")
    assert len(findings(built.parent, raw)) == 1
    ledger.unlink()
    passed_on = built / "rejected.jsonl"
    assert "gone" not in passed_on.read_text()
    passed_on.write_text(json.dumps({"row": 4, "path": "Zaphod-4711/gone.png", "reason": "io_error"}) + "\n")
    assert len(findings(built, raw)) == 1


def test_folders_that_are_not_there(raw):
    with pytest.raises(UserError, match="both needed"):
        audit.run(types.SimpleNamespace(path="", source="x"))
    with pytest.raises(UserError, match="no folder"):
        audit.run(types.SimpleNamespace(path="/none", source=str(raw / "films.csv")))


def test_pseudonyms_depend_on_the_salt_and_stay(raw, tmp_path):
    assert privacy.pseudonym("a", "s") == privacy.pseudonym("a", "s") != privacy.pseudonym("a", "t")
    salt = privacy.salt_of(tmp_path)
    assert salt == privacy.salt_of(tmp_path)
    assert (tmp_path / ".salt").stat().st_mode & 0o077 == 0
    stored = _build(raw, tmp_path / "told", salt="a secret of one's own")
    assert not (tmp_path / "told" / ".salt").exists()
    ids = [records.text(one["patient"]) for one in records.open_set(stored.parent, "mine").source("xray", "train")]
    assert ids == [privacy.pseudonym(patient, "a secret of one's own") for patient in PATIENTS]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS])
def test_a_salt_on_a_drive_without_hard_links(tmp_path, monkeypatch, code):
    def link(source, target):
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    salt = privacy.salt_of(tmp_path)
    assert len(salt) == 32
    assert salt == privacy.salt_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".salt"]
    assert (tmp_path / ".salt").stat().st_mode & 0o077 == 0


def test_a_salt_that_another_build_makes_stays_and_is_read_whole(tmp_path, monkeypatch):
    def link(source, target):  # the other build has made its file and not written it yet
        target.touch()
        threading.Timer(0.2, target.write_text, ["of the other build\n"]).start()
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", link)
    assert privacy.salt_of(tmp_path) == "of the other build"
    assert [path.name for path in tmp_path.iterdir()] == [".salt"]
    (tmp_path / ".salt").write_text("short")
    with pytest.raises(UserError, match="holds no salt of at least 16 characters"):
        privacy.salt_of(tmp_path)


def test_names_in_dicom_never_enter_the_process(raw):
    data = dicom_tags.read(raw / "f0.dcm", pixels=True)
    assert {element.keyword for element in data} <= set(dicom_tags.ALLOWED)
    assert "Beeblebrox" not in str(data)
    assert "private secret" not in str(data)


def test_nothing_unpickles():
    root = Path(__file__).parents[3]
    for path in (*root.glob("data/**/*.py"), *root.glob("unimedi_jax/**/*.py"), root / "main.py"):
        code = path.read_text(encoding="utf-8")
        assert "import pickle" not in code
        assert "allow_pickle=True" not in code
        assert code.count("np.load(") == code.count("allow_pickle=False"), path
