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
