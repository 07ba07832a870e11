"""COVIDx on a tree of its layout: three classes, film names with any ending, patients kept on one side."""

import pytest
from sklearn.model_selection import train_test_split

from data.errors import UserError
from tests.data.sets.conftest import film

ENDINGS, CLASSES = ("png", "jpg", "jpeg", "JPG"), ("normal", "pneumonia", "COVID-19")
TRAIN = [f"p{n // 2} f{n}.{ENDINGS[n % 4]} {CLASSES[n % 3]} rsna" for n in range(30)]
TEST = ["p3 t0.png normal rsna", "q1 t1.png pneumonia rsna", "q2 t2.png COVID-19 bimcv"]


@pytest.fixture
def tree(tmp_path):
    for side, lines in (("train", TRAIN), ("test", TEST)):
        (tmp_path / f"{side}_COVIDx9A.txt").write_text("\n".join(lines) + "\n")
        for number, line in enumerate(lines):
            film(tmp_path / side / line.split()[1], number + 100 * (side == "test"))
    return tmp_path


def test_the_clean_split(tree, build):
    made = build("covidx", tree)
    sides = {split: {one["patient"] for one in by_id.values()} for split, by_id in made.records.items()}
    assert not sides["train"] & sides["val"]
    assert not (sides["train"] | sides["val"]) & sides["test"]
    assert sum(made.splits().values()) == 31
    assert made.counted("training films of test patients 2")
    assert made.counted("train COVID-19 10 16,490 DIFFERS")
    assert made.counted("test normal 1 100 DIFFERS")
    assert made.record("test/t2.png", "test")["labels"].tolist() == [0, 0, 1]
    assert "--config=configs/evaluate.py --config.checkpoint=" in made.printed, "nothing to train on"
    assert "--config.data=covidx_0" in made.printed
    assert made.contract["labels"] == ["normal", "pneumonia", "COVID-19"]


def test_mgca_s_split_goes_by_film(tree, build):
    made = build("covidx", tree, split="mgca")
    train, val = train_test_split(list(range(30)), train_size=0.8, random_state=0)
    for side, part in (("train", train), ("val", val)):
        for at in part:
            path = f"train/{TRAIN[at].split()[1]}"
            assert made.record(path, side, f"{path} {side}")["patient"] == f"p{at // 2}"
    assert made.splits() == {"train": 24, "val": 6, "test": 3}
    assert made.contract["source"]["patients_in_two_splits"] > 0


def test_lines_of_another_form(tree, build):
    with pytest.raises(UserError, match=r"has no train_COVIDx9B\.txt \(there is train_COVIDx9A\.txt"):
        build("covidx", tree, version="9B")
    (tree / "train_COVIDx9B.txt").write_text("1 a.png normal x\n")
    with pytest.raises(UserError, match="the class 'normal' is not of 9B"):
        build("covidx", tree, version="9B")
    (tree / "train_COVIDx9A.txt").write_text("1 a b.png normal x\n")
    with pytest.raises(UserError, match="5 fields in a line"):
        build("covidx", tree)


@pytest.fixture
def newer(tmp_path):
    """CXR-4: three lists; p1 is in train and val, p2 in train and test, p3 in val and test."""
    lists = {
        "train": [f"p{n} a{n}.png {('negative', 'positive')[n % 2]} ricord" for n in range(9)],
        "val": ["p1 b1.png positive bimcv", "p3 b3.png negative bimcv", "q1 b4.png negative stoic"],
        "test": ["p2 c2.png positive sirm", "p3 c3.png negative sirm"],
    }
    for side, lines in lists.items():
        (tmp_path / f"{side}.txt").write_text("\n".join(lines) + "\n")
        for number, line in enumerate(lines):
            film(tmp_path / side / line.split()[1], number + 20 * len(side))
    return tmp_path


def test_the_lists_of_recent_copies(newer, build):
    made = build("covidx", newer, version="CXR-4")
    names = {split: sorted(one["patient"] for one in part.values()) for split, part in made.records.items()}
    assert names == {"train": ["p0", "p4", "p5", "p6", "p7", "p8"], "val": ["p1", "q1"], "test": ["p2", "p3"]}
    assert made.record("val/b1.png", "val")["labels"].tolist() == [0, 1]
    for line in (
        "CXR-4 train negative 5 -",
        "CXR-4 films 14 84,818 DIFFERS",
        "training films of test patients 2",
        "val films of test patients 1",
        "training films of val patients 1",
    ):
        assert made.counted(line), line
    with pytest.raises(UserError, match=r"the lists of CXR-4: set config\.options\.version=CXR-4"):
        build("covidx", newer)
    with pytest.raises(UserError, match=r"config\.options\.split is 'mgca'"):
        build("covidx", newer, version="CXR-4", split="mgca")
