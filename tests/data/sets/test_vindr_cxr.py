"""VinDr-CXR on a tree of its layout: three readers a training film, votes, a label that its tables name in two ways."""

import pytest

from tests.data.sets.conftest import film, rows


@pytest.fixture
def tree(tmp_path):
    """Two labels; film a has 2 and 1 votes, b 0 and 3, c none; d is of the test part."""
    votes = {"a": ((1, 0), (1, 1), (0, 0)), "b": ((0, 1), (0, 1), (0, 1)), "c": ((0, 0),) * 3}
    lines = [f"{image},R{at},{one},{two}" for image, of in votes.items() for at, (one, two) in enumerate(of, start=8)]
    rows(tmp_path / "annotations/image_labels_train.csv", "image_id,rad_id,Cardiomegaly,Other disease", *lines)
    rows(tmp_path / "annotations/image_labels_test.csv", "image_id,Cardiomegaly,Other diseases", "d,1,0")
    for number, image in enumerate("abcd"):
        made = film(tmp_path / ("test" if image == "d" else "train") / f"{image}.dcm", number)
        made.rename(made.with_suffix(".dicom"))
    return tmp_path


@pytest.mark.parametrize(
    ("vote", "labels"),
    [
        ("any", {"a": [1, 1], "b": [0, 1], "c": [0, 0]}),
        ("majority", {"a": [1, 0], "b": [0, 1], "c": [0, 0]}),
        ("all", {"a": [0, 0], "b": [0, 1], "c": [0, 0]}),
    ],
)
def test_votes(tree, build, vote, labels):
    made = build("vindr_cxr", tree, vote=vote, val_share=0.0)
    assert made.splits() == {"train": 3, "test": 1}
    for image, values in labels.items():
        assert made.record(f"train/{image}.dicom", "train")["labels"].tolist() == values, image
    assert made.record("test/d.dicom", "test")["labels"].tolist() == [1, 0]
    assert made.contract["labels"] == ["Cardiomegaly", "Other diseases"]
    for line in (
        "rows of image_labels_train.csv 9 45,000 DIFFERS",
        "films of train 3 15,000 DIFFERS",
        "films of test 1 3,000 DIFFERS",
    ):
        assert made.counted(line), line
