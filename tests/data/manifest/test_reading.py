"""Files outside a set are read by the choices of the set that a network was trained on."""

import csv
import pathlib

import nibabel
import numpy as np
import pytest

from data.build import dataset
from data.errors import UserError
from data.manifest import reading
from data.manifest import source as manifest
from data.manifest.options import Options
from data.readers import volumes
from data.readers.files import BadInput
from data.record_grid import RecordGrid
from tests import dicoms
from unimedi_jax.input import records

REPORT = "INDICATION: cough.\nFINDINGS: A nodule.\nIMPRESSION: Cancer is possible."


@pytest.fixture
def table(tmp_path: pathlib.Path) -> pathlib.Path:
    """A CSV of one CT of three slices that names no axes."""
    hu = np.full((12, 12, 3), -1000, np.int16)
    hu[3:9, 2:8] = 40
    image = nibabel.Nifti1Image(hu, np.diag([2.0, 2.0, 5.0, 1.0]))
    content = bytearray(image.to_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    (tmp_path / "ct.nii").write_bytes(content)
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerows([["path", "modality", "report", "patient", "split"], ["ct.nii", "ct", REPORT, "1", "train"]])
    return tmp_path / "m.csv"


def test_pictures_and_reports_are_those_of_the_records(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    grid = RecordGrid(volume=(16, 32, 32))
    options = Options(sections=("impression",), scans=volumes.Rules("LPS", 2), grid=grid)
    dataset.build(manifest.read(table, options), tmp_path / "records", "small")
    built = records.open_set(tmp_path / "records", "small")
    (record,) = built.source("ct", "train")
    own = reading.of_contract(built.contract)
    (row,) = manifest.read_pictures(table, own).rows
    assert row.info.report == records.text(record["report"]) == "Cancer is possible."
    np.testing.assert_array_equal(own.volume(table.with_name("ct.nii")), record["volume"])
    assert manifest.read_pictures(table).rows[0].info.report == " ".join(REPORT.split())
    with pytest.raises(BadInput, match="no_orientation"):
        reading.Reading(scans=volumes.Rules(min_slices=2)).volume(table.with_name("ct.nii"))


def _contract(**source: object) -> dict:
    return {"records": {}, "source": source}


def test_the_captions_of_a_named_set() -> None:
    policy = {"order": ["impression", "findings"], "empty": "drop", "blanks": "remove", "style": "mgca", "longest": 0}
    own = reading.of_contract(_contract(reports=policy | {"language": "en", "counts": {}}))
    assert own.caption(REPORT) == "cancer is possible a nodule"
    assert own.caption("There is a nodule.") == "there is a nodule", "without headings all of it"
    assert own.caption(" \n") == ""
    assert reading.of_contract(_contract(reports=None)).captions is None


@pytest.mark.parametrize(
    "report",
    [
        "FINDINGS: None.\nIMPRESSION: Small effusion.",
        "FINDINGS:\nLUNGS: A nodule.\nPLEURA: Normal.\nIMPRESSION: ___",
        "EXAM: CT CHEST\nFindings: A nodule.\nImpression: Cancer.",
        "FINDINGS: ___\nIMPRESSION: .",
        "A nodule.",
    ],
)
def test_a_report_is_read_as_it_was_built(table: pathlib.Path, report: str) -> None:
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "modality", "report", "patient"], ["ct.nii", "ct", report, "1"]])
    source = manifest.read(table, Options(sections=("findings", "impression")))
    assert reading.of_contract(_contract(**source.contract)).caption(report) == source.rows[0].info.report


def test_headings_count_by_the_rule_of_the_set() -> None:
    """MIMIC-CXR's, and of sets that name none: they were built when it was the only one."""
    report = "EXAM: CT\nFindings: A nodule.\nIMPRESSION: Cancer."
    for facts, caption in (({}, "Cancer."), ({"headings": "known_words"}, "A nodule. Cancer.")):
        sections = ["findings", "impression"]
        assert reading.of_contract(_contract(sections=sections, **facts)).caption(report) == caption
        assert reading.of_contract(_contract(reports={"order": sections, **facts})).caption(report) == caption


def test_greys_over_the_largest(tmp_path: pathlib.Path) -> None:
    ramp = (np.arange(256 * 256) // 16).astype(np.uint16).reshape(256, 256)
    film = dicoms.dataset(ramp, Modality="DX", WindowCenter=1000, WindowWidth=200)
    film.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    own = reading.of_contract(_contract(options={"greys": "largest"}))
    np.testing.assert_allclose(own.xray(tmp_path / "x.dcm"), ramp / 4095 * 255, atol=1)


@pytest.mark.parametrize(
    "source",
    [
        {"sections": ["conclusion"]},
        {"sections": 3},
        {"sections": ["findings"], "headings": "x"},
        {"sections": ["findings"], "headings": []},
        {"reports": {"order": ["impression"], "longest": "x"}},
        {"reports": [1]},
        {"min_slices": 1},
        {"min_slices": True},
        {"assumed_axes": "XYZ"},
        {"assumed_axes": 3},
        {"options": "greys"},
    ],
)
def test_choices_that_no_set_has_are_refused(source: dict) -> None:
    with pytest.raises(UserError, match="names choices that no set has"):
        reading.of_contract(_contract(**source))
