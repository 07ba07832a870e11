"""What a folder holds: every DICOM file in it is embedded or is in the ledger, whatever its name."""

import threading
import time
import types

import numpy as np
import pytest

from data.build import contracts
from data.errors import UserError
from data.manifest import reading
from data.readers import memory
from data.readers.files import BadInput
from data.reports import sections
from data.sets import amos22
from tests import dicoms
from unimedi_jax.inference import sources

FILM = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def save(path, modality, **elements):
    path.parent.mkdir(exist_ok=True)
    dicoms.dataset(FILM, Modality=modality, **elements).save_as(path, enforce_file_format=True)


def named(folder):
    return {(item.id, item.modality) for item in sources.find(folder)[0]}


@pytest.mark.parametrize("name", ["CT.1.2.840.{}", "1.2.840.{}", "IM{:04d}", "{}.IMA", "{}.DCM"])
def test_a_series_is_known_by_its_files_not_by_their_names(tmp_path, name):
    for index in range(4):
        save(tmp_path / "scan" / name.format(index), "CT")
    assert named(tmp_path) == {("scan", "ct")}


def test_an_xray_beside_a_series_is_an_item_of_its_own(tmp_path):
    for index in range(4):
        save(tmp_path / "study" / f"IM{index}", "CT")
    save(tmp_path / "study" / "DX.1.2.3", "DX")
    save(tmp_path / "study" / "dose.dcm", "SR")  # no X-ray: the reader refuses it by name
    (tmp_path / "study" / "notes.1").write_text("no DICOM")
    assert named(tmp_path) == {("study", "ct"), ("study/DX.1.2.3", "xray"), ("study/dose.dcm", "xray")}


def test_one_file_whose_name_is_a_uid(tmp_path):
    save(tmp_path / "1.2.840.113619.7", "CR")
    assert named(tmp_path / "1.2.840.113619.7") == {("1.2.840.113619.7", "xray")}


def test_each_enhanced_file_of_a_folder_is_a_ct(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        data = dicoms.enhanced(FILM[:6, :8, None].repeat(8, 2).astype(np.int16), [[0, 0, 3.0 * n] for n in range(6)])
        data.save_as(tmp_path / name, enforce_file_format=True)
    save(tmp_path / "localiser.dcm", "CT")
    assert named(tmp_path) == {("a.dcm", "ct"), ("b.dcm", "ct")}
    for number in range(4):
        save(tmp_path / f"{number}.dcm", "CT")
    assert named(tmp_path) == {("a.dcm", "ct"), ("b.dcm", "ct"), (tmp_path.name, "ct")}
    save(tmp_path / "damaged" / "film.dcm", "CT", NumberOfFrames=2)
    path = tmp_path / "damaged" / "film.dcm"
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x002 ", b"IS\x02\x00x "))
    assert ("damaged", "ct") in named(tmp_path), "the reader says what is wrong"


@pytest.mark.parametrize(("head", "body"), [("scan.hdr", "scan.img"), ("Scan.HDR", "scan.IMG")])
def test_a_nifti_pair_is_one_ct(tmp_path, head, body):
    (tmp_path / head).write_bytes(b"x")
    (tmp_path / body).write_bytes(b"x")
    (tmp_path / "alone.img").write_bytes(b"x")  # without its header, which the reader says
    assert named(tmp_path) == {(head, "ct"), ("alone.img", "ct")}


DAMAGED = {
    "empty.dcm": (b"", "empty_file"),
    "cut.DCM": (b"\0" * 100, "not_dicom"),
    "page.dicom": (b"<html>404 not found</html>" * 20, "not_dicom"),
    "bare.dcm": (b"\x08\0\x60\0\x02\0\0\0DX" * 20, "not_dicom"),  # elements without the preamble before them
    "empty.ima": (b"", "empty_file"),
}


def test_damaged_files_that_are_dicom_by_name_are_refused_not_passed_over(tmp_path):
    save(tmp_path / "film.dcm", "DX")
    (tmp_path / "notes.1").write_text("no DICOM")
    for name, (content, code) in DAMAGED.items():
        (tmp_path / name).write_bytes(content)
        ((alone,), _) = sources.find(tmp_path / name)
        with pytest.raises(BadInput, match=f"^{code}"):
            alone.read()
    refused = []
    items = sources.find(tmp_path)[0]
    assert [items[index].id for index, _ in sources.read(items, "xray", refused)] == ["film.dcm"]
    assert {one.path: one.reason.partition(":")[0] for one in refused} == {
        name: code for name, (_, code) in DAMAGED.items()
    }


def test_networks_of_a_set_with_organs_of_its_own_read_files():
    rules = {"format": contracts.FORMAT, "records": contracts.rules(amos22.ORGANS), "libraries": contracts.libraries()}
    sources.check(types.SimpleNamespace(contracts={"amos22": rules}))
    rules["records"]["ct"]["hu"] = [0, 1]
    with pytest.raises(UserError, match=r"records\.ct\.hu was \[0, 1\] in training"):
        sources.check(types.SimpleNamespace(contracts={"amos22": rules}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_reports_in_the_encodings_that_tables_may_have(tmp_path, encoding):
    path = tmp_path / "reports.txt"
    path.write_bytes("Findings: clear. Impression: Erg\u00fcsse beidseits.\r\n\r\nNo effusion.\r\n".encode(encoding))
    items, rejected = sources.find(path, reading.Reading(captions=sections.Policy(("impression",), "whole")))
    assert [(one.id, one.report) for one in items] == [("1", "Erg\u00fcsse beidseits."), ("3", "No effusion.")]
    assert not rejected


def test_a_wrong_byte_costs_its_line(tmp_path):
    path = tmp_path / "reports.txt"
    path.write_bytes(b"\n".join(("Ergüsse.".encode(), b"Edema \xff.", "Ödem.".encode())))
    items, rejected = sources.find(path)
    assert [one.report for one in items] == ["Erg\u00fcsse.", "\u00d6dem."]
    assert [(one.row, one.reason.partition(":")[0]) for one in rejected] == [(2, "bad_encoding")]


@pytest.mark.parametrize("modality", ["xray", "ct"])
def test_items_are_read_ahead_by_few_in_order_under_the_callers_limit(modality):
    lock, running, most, limits, begun = threading.Lock(), [0], [0], set(), []

    def reading(number):
        def read():
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
                limits.add(memory.LIMIT.get())
                begun.append(number)
            time.sleep(0.001)
            with lock:
                running[0] -= 1
            if number == 3:
                raise BadInput("too_small", "a thumbnail")
            if number == 4:
                raise OSError
            return np.full(1, number)

        return sources.Item(str(number), modality, read)

    items, refused = [reading(number) for number in range(30)], []
    before = memory.LIMIT.set(1.25)
    try:
        rows = sources.read(items, modality, refused, skip=[number == 5 for number in range(30)])
        first = next(rows)
        assert len(begun) <= 1 + sources.AHEAD[modality]
        rest = [(index, int(pixels[0])) for index, pixels in (first, *rows)]
    finally:
        memory.LIMIT.reset(before)
    assert rest == [(number, number) for number in range(30) if number not in (3, 4, 5)]
    assert [one.reason for one in refused] == ["too_small: a thumbnail", "unreadable: OSError"]
    assert most[0] <= sources.READERS[modality]
    assert (limits, sorted(begun)) == ({1.25}, [number for number in range(30) if number != 5])


def test_who_stops_early_reads_little_more():
    begun = []
    items = [sources.Item(str(n), "xray", lambda n=n: begun.append(n) or np.zeros(1)) for n in range(100)]
    rows = sources.read(items, "xray", [])
    next(rows)
    rows.close()
    assert len(begun) <= 1 + sources.AHEAD["xray"]
