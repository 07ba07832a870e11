import csv
import json
import re

import cv2
import nibabel
import numpy as np
import pytest

from configs import build as build_config
from data import job
from data.checks import doctor, doctor_page
from data.errors import OverBudgetError, UserError
from data.source import Row, Source
from tests.pages import HOSTILE, Parsed, assert_loads_and_runs_nothing, assert_same_page_but_for_texts


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Twelve alike films and a strange one, twins, a patient in two splits, and rejects with and without pictures."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)

    def film(name, scale=1.0):
        picture = cv2.GaussianBlur(rng.normal(size=(64, 64)), (0, 0), 3)
        picture = 120 + scale * 20 * picture / picture.std()
        cv2.imwrite(str(folder / name), np.clip(picture, 0, 255).astype(np.uint8))

    rows = []

    def add(path, **fields):
        number = len(rows)
        report = f"Secret words {number} about the left lung of this one."
        rows.append(
            {"path": path, "modality": "xray", "report": report, "patient": f"p{number}", "split": "train"} | fields
        )

    for n in range(12):
        film(f"f{n}.png")
        add(f"f{n}.png", report="Normal chest." if n < 5 else f"Nodule {n} in the left lung.")
    film("strange.png", 0.02)
    add("strange.png", report="Derrame pleural en el lado izquierdo.")
    (folder / "twin.png").write_bytes((folder / "f0.png").read_bytes())
    add("twin.png", split="test")
    cv2.imwrite(str(folder / "flat.png"), np.full((64, 64), 90, np.uint8))
    add("flat.png")
    (folder / "cut.png").write_bytes((folder / "f1.png").read_bytes()[:400])
    add("cut.png")
    scan = np.where(rng.random((12, 12, 12)) < 0.5, 100, 1064).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(scan, np.diag([-2, -2, 2, 1])), folder / "raw.nii")
    add("raw.nii", modality="ct")
    add("gone.png")
    _write(folder / "films.csv", rows)
    film("again.png")
    add("again.png", patient="p3", split="val")
    _write(folder / "leak.csv", rows)
    return folder


def _write(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def examine(raw, workdir, table="films.csv", **settings):
    config = build_config.get_config("manifest")
    config.update(source=str(raw / table), data_dir=str(workdir / "none"), dry_run=True, workers=1, **settings)
    job.run(config, workdir)


def test_the_doctor_s_findings(raw, tmp_path, capsys):
    examine(raw, tmp_path)
    examined = json.loads((tmp_path / "doctor.json").read_text())
    assert (examined["rows"], examined["rejected"]) == (18, 4)
    assert examined["accepted"] == {"xray": {"train": 13, "val": 0, "test": 1}}
    assert examined["reasons"] == {"missing_image": 1, "constant_image": 1, "truncated": 1, "not_hu": 1}
    assert examined["outliers"][0]["path"] == "strange.png"
    assert examined["outliers"][0]["measure"] == "film/spread"
    assert examined["duplicates"] == examined["duplicates_in_two_splits"] == [[1, 14]]
    assert examined["reports"]["languages"]["es"] == 1
    assert (examined["reports"]["repeated_texts"], examined["reports"]["rows_with_repeated_text"]) == (1, 5)
    assert examined["records"]["megabytes"] == round(14 * 256**2 / 1e6, 1)
    assert examined["records"]["largest_megabytes"] == round(256**2 / 1e6, 3)
    assert not (tmp_path / "none").exists()
    shown = capsys.readouterr().out
    assert "strange.png: film/spread" in shown
    page = (tmp_path / "doctor.html").read_text()
    # The flat film, the scan without HU, the strange one, and what is suspect: the films are noise.
    assert page.count("data:image/png") == 3 + len(examined["noted_rows"]["maybe_inverted"])
    assert "<script" not in page
    for text in (shown, page, json.dumps(examined)):
        assert "Secret" not in text
        assert "Normal chest" not in text


def test_each_reason_shows_three_of_its_rows(tmp_path, capsys):
    rows = [{"path": f"{i}.png", "modality": "xray", "report": "Clear.", "patient": f"p{i}"} for i in range(5)]
    _write(tmp_path / "films.csv", [*rows, {**rows[0], "path": "scan.xyz"}])
    (tmp_path / "scan.xyz").write_bytes(b"no picture" * 99)
    examine(tmp_path, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "missing_image" in line)
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 4]] == ["row 1", "row 2", "row 3"]
    assert lines[start + 4].strip() == "and 2 more, in doctor.json"
    assert sum("row 6: scan.xyz" in line for line in lines) == 1


def test_what_is_noted_is_named_and_what_is_suspect_is_shown(tmp_path, capsys):
    film = np.full((64, 64), 60, np.uint8)
    film[:30, :12] = film[:30, -12:] = 200
    film[30, 30] = 61
    cv2.imwrite(str(tmp_path / "film.png"), film)
    (tmp_path / "films.csv").write_text("path,modality,report,patient,split\nfilm.png,xray,Clear lungs.,p,train\n")
    examine(tmp_path, tmp_path)
    examined = json.loads((tmp_path / "doctor.json").read_text())
    assert (examined["notes"], examined["noted_rows"]) == ({"maybe_inverted": 1}, {"maybe_inverted": [1]})
    assert "rows 1\n" in capsys.readouterr().out
    page = (tmp_path / "doctor.html").read_text()
    assert page.count("data:image/png") == 1
    assert "row 1: maybe_inverted" in page


def _page(text):
    """A page whose every text comes from outside, as `text` of the name of its place."""
    example = {"image": np.zeros((8, 8), np.uint8)}
    rows = [
        Row("a", "xray", "train", 1, path=text("suspicious path")),
        Row("b", "xray", "train", 2, path=text("far path")),
    ]
    examination = {
        "rows": 4,
        "rejected": 2,
        "reasons": {"truncated": 2},
        "rejects": [
            {"row": n, "path": text(f"path {n}"), "reason": f"truncated: {text(f'detail {n}')}"} for n in (3, 4)
        ],
        "noted_rows": {"maybe_inverted": [1]},
        "duplicates": [[1, 2]],
        "duplicates_in_two_splits": [[1, 2]],
        "measures": {text("measure"): {"p0": 0.5, "p1": 1.0, "p50": 1.0, "p99": 1.0, "p100": 2.0}},
        "outliers": [{"row": 2, "measure": text("far measure"), "value": 9.5, "median": 1.0}],
        "reports": {
            "empty": 0,
            "languages": {text("language"): 2},
            "sections": {text("section"): 1},
            "tokens": {"p50": 3, "p100": 4},
            "token_limit": 112,
            "longer_than_limit": 0,
            "rows_with_repeated_text": 2,
            "most_repeated": [{"times": 2, "rows": [1, 2]}],
        },
    }
    return doctor_page.render(examination, Source((), {}, rows, lambda row: example), None)


def test_hostile_texts_stay_texts_wherever_they_come_from():
    places = []

    def hostile(place):
        places.append(place)
        return f"{place}: {HOSTILE}"

    page = _page(hostile)
    assert_loads_and_runs_nothing(page)
    assert_same_page_but_for_texts(page, _page(str))
    assert "<script" not in page
    shown = Parsed(page).shown
    assert len(places) == 10
    assert not [place for place in places if f"{place}: {HOSTILE}" not in shown]


def test_a_hostile_file_name_goes_through_the_whole_examination(tmp_path):
    name = """<b onload="x"> & 'y'.png"""
    (tmp_path / "xrays.csv").write_text(
        'path,modality,report,patient,split\n"' + name.replace('"', '""') + '",xray,Clear.,p,train\n'
    )
    examine(tmp_path, tmp_path, "xrays.csv")
    page = (tmp_path / "doctor.html").read_text()
    assert_loads_and_runs_nothing(page)
    assert any(text.startswith(f"{name} - ") for text in Parsed(page).text)


def test_a_patient_in_two_splits_is_an_error(raw, tmp_path):
    with pytest.raises(UserError, match="2 rows belong to patients in two splits") as caught:
        examine(raw, tmp_path, "leak.csv")
    assert caught.value.exit_code == 2
    assert json.loads((tmp_path / "doctor.json").read_text())["patients_in_two_splits"] == [4, 19]


@pytest.mark.parametrize("settings", [{"max_rejected": 0.2}, {"strict": True}])
def test_above_the_budget_the_exit_code_is_three(raw, tmp_path, settings):
    with pytest.raises(OverBudgetError, match="4 of 18 rows") as caught:
        examine(raw, tmp_path, **settings)
    assert caught.value.exit_code == 3
    examine(raw, tmp_path, max_rejected=0.23)


def test_equals_have_no_outliers():
    cases = [doctor.Measured(Row(str(n), "ct", "train", n), {"ct/field_mm": 350.0}) for n in range(20)]
    assert doctor.outliers(cases) == []
    odd = doctor.Measured(Row("odd", "ct", "train", 99), {"ct/field_mm": 700.0})
    assert [one["row"] for one in doctor.outliers([*cases, odd])] == [99]
    assert doctor.outliers([*cases[:3], odd]) == []


def test_the_page_holds_on_a_phone():
    """Nothing asks for more than 368 of 400 pixels, and what may be wider, the tables, scrolls by itself."""
    page = _page(str)
    parsed = Parsed(page)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [of for _, of in parsed.tags]
    tables = re.findall(r"(.*)<table", page)
    assert len(tables) == 5
    assert all(before.endswith('<div class="wide">') for before in tables)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert ".wide { overflow-x: auto" in style
    assert "overflow-wrap: anywhere" in style
    fixed = re.sub(r"max-width: \d+px|min\(100%, \d+px\)", "", style)
    assert not [px for px in re.findall(r"(?:width: |minmax\()(\d+)px", fixed) if int(px) > 368]
