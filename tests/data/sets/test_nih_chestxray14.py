"""NIH ChestX-ray14 on trees of its layouts: findings in one cell, the official test list, Kaggle's twelve folders."""

import pytest

from data.errors import UserError
from data.sets.nih_chestxray14 import LABELS
from tests.data.sets.conftest import film, rows

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,OriginalImage[Width"
FILMS = (
    ("00000001_000.png", "Cardiomegaly|Emphysema", "1", "PA"),
    ("00000001_001.png", "No Finding", "1", "AP"),
    ("00000002_000.png", "Pleural_Thickening", "2", "AP"),
    ("00000003_000.png", "Hernia", "3", "PA"),
    ("00000004_000.png", "No Finding", "4", "PA"),
)


@pytest.fixture
def tree(tmp_path):
    for number, (name, *_) in enumerate(FILMS):
        film(tmp_path / "images" / name, number)
    lines = [f"{name},{findings},0,{patient},58,M,{view},2682" for name, findings, patient, view in FILMS]
    rows(tmp_path / "Data_Entry_2017_v2020.csv", HEADER, *lines)
    rows(tmp_path / "train_val_list.txt", *(name for name, *_ in FILMS[:3]))
    rows(tmp_path / "test_list.txt", FILMS[3][0])
    return tmp_path


def test_findings_and_the_official_test_list(tree, build):
    made = build("nih_chestxray14", tree, val_share=0.0)
    assert made.splits() == {"train": 3, "test": 1}
    first = made.record("images/00000001_000.png", "train")
    assert [name for name, value in zip(LABELS, first["labels"], strict=True) if value] == ["Cardiomegaly", "Emphysema"]
    assert not made.record("images/00000001_001.png", "train")["labels"].any()
    assert made.record("images/00000003_000.png", "test")["labels"].tolist() == [0] * 13 + [1]
    for line in (
        "films 5 112,120 DIFFERS",
        "patients 4 30,805 DIFFERS",
        "films of train_val_list.txt 3 86,524 DIFFERS",
        "films of test_list.txt 1 25,596 DIFFERS",
        "films in neither list 1",
    ):
        assert made.counted(line), line


def test_kaggle_s_folders_and_views(tree, build):
    (tree / "images").rename(tree / "moved")
    for number, (name, *_) in enumerate(FILMS[:4]):
        place = tree / f"images_{number + 1:03d}/images"
        place.mkdir(parents=True)
        (tree / "moved" / name).rename(place / name)
    (tree / "Data_Entry_2017_v2020.csv").rename(tree / "Data_Entry_2017.csv")
    made = build("nih_chestxray14", tree, views="AP", val_share=1.0)
    assert made.splits() == {"val": 2}
    assert made.record("images_003/images/00000002_000.png", "val")["patient"] == "2"
    assert made.counted("films of other views than AP 3")


def test_a_finding_that_the_set_does_not_have(tree, build):
    table = tree / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Hernia", "Fracture"))
    with pytest.raises(UserError, match="is not of its published form"):
        build("nih_chestxray14", tree)
