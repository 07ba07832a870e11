"""PadChest on trees of its layouts: Spanish reports, projections, findings; folders by number or one for all."""

import math

import pytest

from tests.data.sets.conftest import film, rows

HEADER = ",ImageID,ImageDir,StudyID,PatientID,Projection,Pediatric,ReportID,Report,Labels"
SPANISH = "sin hallazgos patologicos agudos en el torax del caso {} . "
# patient, projection, child, report, labels
FILMS = (
    ("p1", "PA", "", SPANISH.format(1), "['normal']"),
    ("p1", "L", "", SPANISH.format(1), "['normal']"),
    ("p2", "AP", "PED", SPANISH.format(2), "['normal']"),
    ("p3", "AP_horizontal", "", SPANISH.format(3), "['cardiomegaly', 'pleural effusion']"),
    ("p4", "PA", "", "", "['unchanged']"),
    ("p5", "PA", "", SPANISH.format(5), "['unchanged', 'cardiomegaly']"),
    ("p6", "EXCLUDE", "", SPANISH.format(6), "['exclude']"),
)


@pytest.fixture
def tree(tmp_path):
    lines = []
    for number, (patient, projection, child, report, labels) in enumerate(FILMS):
        film(tmp_path / str(number % 3) / f"{number}_x.png", number)
        lines.append(
            f"{number},{number}_x.png,{number % 3},s{patient},{patient},{projection},{child},r{patient},"
            f'"{report}","{labels}"'
        )
    rows(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", HEADER, *lines)
    return tmp_path


def test_spanish_reports(tree, build):
    made = build("padchest", tree, labels="cardiomegaly,normal")
    by_patient = {one["patient"]: one for part in made.records.values() for one in part.values()}
    assert by_patient.keys() == {"p1", "p3", "p5"}
    assert all(one["study"] and one["view"] in ("PA", "AP", "AP_horizontal") for one in by_patient.values())
    assert by_patient["p1"]["report"] == SPANISH.format(1).strip()
    assert by_patient["p1"]["labels"].tolist() == [0, 1]
    assert by_patient["p3"]["labels"].tolist() == [1, 0]
    assert all(map(math.isnan, by_patient["p5"]["labels"]))
    assert made.contract["source"]["reports"]["language"] == "es"
    for line in (
        "films 7 160,868 DIFFERS",
        "patients 6 67,625 DIFFERS",
        "reports 6 109,931 DIFFERS",
        "films of other projections than PA,AP,AP_horizontal 2",
        "films of children 1",
        "without a caption, left out 1",
        "language es 3",
    ):
        assert made.counted(line), line


def test_all_films_in_one_folder_and_children(tree, build):
    (tree / "images-224").mkdir()
    for picture in sorted(tree.glob("?/*.png")):
        picture.rename(tree / "images-224" / picture.name)
    (tree / "images-224/0_x.png").unlink()
    made = build("padchest", tree, children=True, views="PA,AP,L")
    patients = {one["patient"] for part in made.records.values() for one in part.values()}
    assert patients == {"p1", "p2", "p5"}
    assert made.counted("films that are not in the tree 1")
