"""object-CXR on a tree of its layout: rectangles, ellipses and polygons as boxes."""

import pytest
from sklearn.model_selection import train_test_split

from data.readers.files import BadInput
from data.sets import object_cxr
from tests.data.sets.conftest import film, rows


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ("0 10 20 30 50", (10, 20, 30, 50)),
        ("0 30 50 10 20", (10, 20, 30, 50)),
        ("1 10 20 30 50", (10, 20, 30, 50)),
        ("2 10 20 30 20 20 60", (10, 20, 30, 60)),
    ],
)
def test_boxes_of_shapes(shape, box):
    assert object_cxr.box(shape) == box


@pytest.mark.parametrize("shape", ["3 1 2 3 4", "0 1 2", "0 1 2 3", "2 1 2 x 4", "0"])
def test_shapes_that_are_none(shape):
    with pytest.raises(BadInput, match="mask_values"):
        object_cxr.box(shape)


def test_the_whole_set(tmp_path, build):
    for number in range(20):
        film(tmp_path / "train" / f"{number:05d}.jpg", number, (64, 128))
    for number in range(3):
        film(tmp_path / "dev" / f"{number:05d}.jpg", 50 + number, (64, 128))
    lines = [f"{number:05d}.jpg," for number in range(20)]
    lines[4] += "0 10 8 20 16;2 100 0 128 0 110 64"
    lines[5] += "9 1 2 3 4"
    rows(tmp_path / "train.csv", "image_name,annotation", *lines)
    rows(tmp_path / "dev.csv", "image_name,annotation", *(f"{n:05d}.jpg,1 0 0 64 32" for n in range(3)))
    made = build("object_cxr", tmp_path)
    _, held_out = train_test_split(list(range(20)), test_size=0.1, random_state=0)
    assert made.splits() == {"train": 17 + (5 in held_out), "val": 2 - (5 in held_out), "test": 3}
    # 128 x 64 pixels become 256 x 128 with 64 rows of zeros above: twice the coordinates, 64 lower.
    one = made.record("train/00004.jpg", "val" if 4 in held_out else "train")
    assert one["boxes"].tolist() == [[0, 80, 20, 96, 40], [0, 64, 200, 192, 256]]
    assert made.record("dev/00001.jpg", "test")["boxes"].tolist() == [[0, 64, 0, 128, 128]]
    assert [(one["row"], one["reason"].partition(":")[0]) for one in made.rejected] == [(6, "mask_values")]
    assert made.counted("films of dev.csv 3 1,000 DIFFERS")
