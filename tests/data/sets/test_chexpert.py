"""CheXpert on a tree of its layout: five tasks by name, 5x200, a clean split, MGCA's split as its code makes it."""

import numpy as np
import pytest

from data.errors import UserError
from data.sets import chexpert
from data.sets.chexpert import LABELS, TASKS
from tests.data.sets.conftest import film, rows

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(LABELS)


def row(part, patient, study, view, **values):
    file = f"view{1 if view == 'Frontal' else 2}_{view.lower()}.jpg"
    path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/{file}"
    labels = [values.get(name.replace(" ", "_"), "") for name in LABELS]
    return path, ",".join((path, "Female", "68", view, "AP", *labels))


@pytest.fixture
def tree(tmp_path):
    """40 training patients, the first ten with one task alone; 3 test patients."""
    root = tmp_path / "CheXpert-v1.0-small"
    train = []
    for patient in range(1, 41):
        values = {"Support_Devices": "1.0"}
        if patient <= 10:
            values = {TASKS[(patient - 1) % 5].replace(" ", "_"): "1.0", "No_Finding": "0.0"}
        if patient == 11:
            values = dict.fromkeys([task.replace(" ", "_") for task in TASKS], "-1.0")
        train.append(row("train", patient, 1, "Frontal", **values))
        if patient % 10 == 1:
            train.append(row("train", patient, 1, "Lateral", **values))
    test = [row("valid", 64541 + n, 1, "Frontal", Edema="1.0", Cardiomegaly="0.0") for n in range(3)]
    rows(root / "train.csv", HEADER, *(line for _, line in train))
    rows(root / "valid.csv", HEADER, *(line for _, line in test))
    for number, (path, _) in enumerate((*train, *test)):
        film(root / path.partition("/")[2], number)
    return root


def path(patient, part="train", view="frontal"):
    return f"{part}/patient{patient:05d}/study1/view{1 if view == 'frontal' else 2}_{view}.jpg"


def test_the_clean_split_has_no_patient_on_two_sides(tree, build):
    made = build("chexpert", tree, each=1)
    sides = {split: {one["patient"] for one in by_id.values()} for split, by_id in made.records.items()}
    few = {f"patient{n:05d}" for n in range(1, 6)} | {f"patient{n:05d}" for n in range(6, 11)}
    assert len(sides["train"] | sides["val"]) == 35
    assert not sides["train"] & sides["val"]
    assert len((sides["train"] | sides["val"]) & few) == 5, "one patient of each task stays away for 5x200"
    assert len(sides["test"]) == 3
    unsure = made.record(path(11), "train")
    assert unsure["labels"].tolist() == [1, 0, 0, 1, 1], "Atelectasis, Edema and Effusion: uncertain is present"
    assert made.record(path(20), "train")["labels"].tolist() == [0] * 5, "blank is absent"
    assert made.record(path(64541, "valid"), "test")["labels"].tolist() == [0, 0, 0, 1, 0]
    assert unsure["report"] == ""
    for line in (
        "rows of train.csv 44 223,414 DIFFERS",
        "films of 5x200 5 1,000 DIFFERS",
        "patients of train.csv 40 64,540 DIFFERS",
        "frontal films of train.csv 40 191,027 DIFFERS",
        "lateral films of train.csv 4 32,387 DIFFERS",
    ):
        assert made.counted(line), line


def test_uncertain_labels_as_asked(tree, build):
    made = build("chexpert", tree, each=1, uncertain="ignore", views="Frontal,Lateral")
    assert np.isnan(made.record(path(11), "train")["labels"]).all()
    assert np.isnan(made.record(path(21, view="lateral"), "train")["labels"]).all()
    with pytest.raises(UserError, match=r"config\.options\.uncertain"):
        build("chexpert", tree, uncertain="x")


def test_5x200_has_films_of_one_task_alone(tree, build):
    made = build("chexpert", tree, part="5x200", each=2)
    assert made.splits() == {"test": 10}
    labels = np.array([one["labels"] for one in made.records["test"].values()])
    assert labels.sum(axis=0).tolist() == [2] * 5
    assert (labels.sum(axis=1) == 1).all()
    assert not made.contract["splits"]["xray"]["train"]


def test_few_draws_as_pandas_samples():
    """DataFrame({"a": range(50)}).sample(n=4, random_state=0) of pandas 3.1 takes rows 28, 11, 10, 41."""
    made = [{"Frontal/Lateral": "Frontal", **dict.fromkeys(LABELS, ""), "Edema": "1.0"} for _ in range(50)]
    assert chexpert.few(made, 4) == [28, 11, 10, 41]
    made[28]["Fracture"] = "-1.0"
    assert 28 not in chexpert.few(made, 49), "uncertain is not absent"


def test_mgca_s_split_overlaps_as_its_code_does(tree, build):
    """Of 10 rows without 2 and 5 pandas 3.1 draws positions 6 and 2, rows 8 and 3, and drops the labels 6 and 2."""
    placed = chexpert.mgca(10, [2, 5], 2)
    assert [at for at, split in placed if split == "val"] == [8, 3]
    assert [at for at, split in placed if split == "train"] == [0, 1, 3, 4, 7, 8, 9]
    made = build("chexpert", tree, split="mgca", each=1, val=20)
    assert made.contract["source"]["patients_in_two_splits"] > 0
    assert "patients are in more than one split" in made.printed
    assert set(made.records["train"]).isdisjoint(made.records["val"]), "a film in both is two records"


def test_the_four_batches_as_downloaded(tree, build):
    """Tables and valid/ in the first, patients of train.csv in the others; one is nested, as some unpackers do."""
    whole = build("chexpert", tree, each=1)
    root = tree.parent / "batches"
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir(parents=True)
    for name in ("train.csv", "valid.csv", "valid"):
        (tree / name).rename(first / name)
    others = [root / f"CheXpert-v1.0 batch {n} (train {n - 1})" for n in (2, 3, 4)]
    others[2] = others[2] / others[2].name
    for number, patient in enumerate(sorted((tree / "train").iterdir())):
        place = others[number // 14]
        place.mkdir(parents=True, exist_ok=True)
        patient.rename(place / patient.name)
    made = build("chexpert", root, each=1)
    assert made.splits() == whole.splits()
    assert made.rejected == []
    key = f"{others[1].relative_to(root)}/{path(20).partition('/')[2]}"
    assert (made.record(key, "train")["image"] == whole.record(path(20), "train")["image"]).all()
    key = f"{first.name}/{path(64541, 'valid')}"
    assert made.record(key, "test")["labels"].tolist() == [0, 0, 0, 1, 0]
