"""CheXpert Plus on a tree of its layout: sections as reports, CheXbert's labels by path, PNG under the JPEG's name."""

import json
import math

import pytest

from data.errors import UserError
from data.sets.chexpert import LABELS, TASKS
from tests.data.sets.conftest import film, rows

HEADER = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,report,section_findings,section_impression,split"
)


def path(patient, part="train", view="frontal"):
    return f"{part}/patient{patient:05d}/study1/view1_{view}.jpg"


@pytest.fixture
def tree(tmp_path):
    """Patients 1 to 6 of train, the second lateral too, the third without sections; 7 of valid."""
    paths = [path(n) for n in range(1, 7)] + [path(2, view="lateral"), path(7, "valid")]
    lines, labels = [], []
    for number, name in enumerate(paths):
        patient = int(name.split("/")[1][7:])
        findings = "" if patient == 3 else f"The lungs of patient {patient} are clear."
        impression = "" if patient == 3 else "1. No acute disease of the chest."
        view, part = ("Lateral" if "lateral" in name else "Frontal"), name.split("/")[0]
        lines.append(f'{name},x.dcm,{view},AP,patient{patient:05d},"all\nof it","{findings}","{impression}",{part}')
        values = dict.fromkeys(LABELS) | {"Edema": 1.0, "Fracture": 0.0, "Pneumonia": -1.0}
        labels.append(json.dumps({"path_to_image": name, **values}))
        film(tmp_path / "PNG/PNG" / name.replace(".jpg", ".png"), number)
    rows(tmp_path / "df_chexpert_plus_240401.csv", HEADER, *lines)
    rows(tmp_path / "chexbert_labels/report_fixed.json", *labels)
    return tmp_path


def test_reports_and_labels(tree, build):
    made = build("chexpert_plus", tree, val_share=0.0)
    assert made.splits() == {"train": 5, "test": 1}
    one = made.record(f"PNG/PNG/{path(2)}".replace(".jpg", ".png"), "train")
    assert one["report"] == "1. No acute disease of the chest. The lungs of patient 2 are clear."
    assert one["patient"] == "patient00002"
    assert (one["study"], one["view"]) == ("study1", "frontal")
    of = dict(zip(made.contract["labels"], one["labels"].tolist(), strict=True))
    assert (of["Edema"], of["Fracture"]) == (1, 0)
    assert math.isnan(of["Pneumonia"])
    assert math.isnan(of["Cardiomegaly"])
    for line in (
        "films 8 223,228 DIFFERS",
        "studies 7 187,711 DIFFERS",
        "patients 7 64,725 DIFFERS",
        "films that are not Frontal 1",
        "without a caption, left out 1",
    ):
        assert made.counted(line), line


def test_jpegs_a_list_of_labels_and_no_labels(tree, build):
    (tree / "PNG/PNG").rename(tree / "moved")
    for number, picture in enumerate(sorted((tree / "moved").rglob("*.png"))):
        film(tree / str(picture.relative_to(tree / "moved")).replace(".png", ".jpg"), number)
    labels = tree / "chexbert_labels/report_fixed.json"
    labels.write_text(f"[{','.join(labels.read_text().splitlines())}]")
    made = build("chexpert_plus", tree, uncertain="ones", val_share=1.0, views="Frontal,Lateral")
    assert made.splits() == {"val": 6, "test": 1}
    assert made.record(path(1), "val")["labels"][LABELS.index("Pneumonia")] == 1
    labels.unlink()
    with pytest.raises(UserError, match=r"has no chexbert_labels/report_fixed\.json"):
        build("chexpert_plus", tree)
    assert build("chexpert_plus", tree, labeler="").contract["labels"] == []


def test_a_table_without_films_says_where_it_looked(tree, build):
    (tree / "PNG").rename(tree / "pictures")
    with pytest.raises(UserError, match=r"has no X-rays: looked below it for df_chexpert_plus.*PNG/train"):
        build("chexpert_plus", tree)


def test_what_is_not_mentioned_may_be_absent(tree, build):
    made = build("chexpert_plus", tree, blank="negative", val_share=0.0)
    one = made.record(f"PNG/PNG/{path(2)}".replace(".jpg", ".png"), "train")
    of = dict(zip(made.contract["labels"], one["labels"].tolist(), strict=True))
    assert (of["Edema"], of["Fracture"], of["Cardiomegaly"]) == (1, 0, 0)
    assert math.isnan(of["Pneumonia"]), "-1 is uncertain, not blank"
    assert made.contract["source"]["options"]["blank"] == "negative"


def test_a_list_of_5x200_is_tested_on_with_its_five_labels(tree, build, tmp_path):
    lines = [f"CheXpert-v1.0/{path(n)},{','.join('1.0' if at == n - 1 else '' for at in range(5))}" for n in (1, 2, 4)]
    rows(tmp_path / "chexpert_5x200.csv", f"Path,{','.join(TASKS)}", *lines, f"CheXpert-v1.0/{path(9)},1,0,0,0,0")
    made = build("chexpert_plus", tree, lists=str(tmp_path / "chexpert_5x200.csv"))
    assert made.splits() == {"test": 3}
    assert made.contract["labels"] == list(TASKS)
    one = made.record(f"PNG/PNG/{path(2)}".replace(".jpg", ".png"), "test")
    assert one["labels"].tolist() == [0, 1, 0, 0, 0]
    assert "patient 2 are clear" in one["report"]
    assert made.counted("listed films that the table lacks 1")


def test_options_of_later_versions_leave_a_default_contract_as_it_was(tree, build):
    options = build("chexpert_plus", tree, val_share=0.0).contract["source"]["options"]
    assert set(options) == {"views", "labeler", "uncertain", "val_share"}
