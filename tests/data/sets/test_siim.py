"""SIIM-ACR on a tree of its layout: the header's blank, relative runs down the columns, several rows a film."""

import shutil

import numpy as np
import pydicom
import pytest
from sklearn.model_selection import train_test_split

from data.readers.files import BadInput
from data.sets import annotations
from tests.data.sets.conftest import film, rows

# A film of 8 x 8: 3 pixels from the third on in the first column, then, 10 after their end, one in the second.
RUNS = "2 3 10 1"


def test_runs_are_relative_and_go_down_the_columns():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 0] = True
    mask[7, 1] = True  # 2 + 3 + 10 = 15 = column 1, row 7
    np.testing.assert_array_equal(annotations.relative_runs(RUNS, (8, 8)), mask)
    wide = annotations.relative_runs("0 4 0 2", (4, 8))
    assert wide[:, 0].all()
    assert wide[:, 1].tolist() == [True, True, False, False]
    assert not annotations.relative_runs("", (4, 8)).any()


@pytest.mark.parametrize("runs", ["1", "1 x", "-1 3", "60 5", "1 2 3"])
def test_runs_that_are_none(runs):
    with pytest.raises(BadInput, match="mask_"):
        annotations.relative_runs(runs, (8, 8))


@pytest.fixture
def tree(tmp_path):
    """24 films: 6 with pneumothorax, the first with two rows."""
    lines = []
    for number in range(24):
        film(tmp_path / f"dicom-images-train/1.2.{number}/1.3.{number}/1.4.{number}.dcm", number, (256, 256))
        lines.append(f"1.4.{number}, {'-1' if number >= 6 else f'{256 * 10 + 20} 30 226 30'}")
    rows(tmp_path / "train-rle.csv", "ImageId, EncodedPixels", *lines, f"1.4.0, {256 * 100} 256")
    return tmp_path


def path(number):
    return f"dicom-images-train/1.2.{number}/1.3.{number}/1.4.{number}.dcm"


def test_masks_and_labels(tree, build):
    made = build("siim", tree)
    by_patient = {one["patient"]: one for split in made.records.values() for one in split.values()}
    expected = np.zeros((256, 256), np.uint8)
    expected[20:50, 10:12] = 1  # columns 10 and 11
    np.testing.assert_array_equal(by_patient["1.2.3"]["lesion_mask"], expected)
    expected[:, 100] = 1
    np.testing.assert_array_equal(by_patient["1.2.0"]["lesion_mask"], expected)
    assert [by_patient[f"1.2.{n}"]["labels"].tolist() for n in (0, 3, 7)] == [[1], [1], [0]]
    assert not by_patient["1.2.7"]["lesion_mask"].any()
    for line in (
        "rows 25 12,954 DIFFERS",
        "films 24 12,047 DIFFERS",
        "with pneumothorax 6 2,669 DIFFERS",
        "rows without 18 9,378 DIFFERS",
    ):
        assert made.counted(line), line


def test_mgca_s_split_goes_by_row_in_the_order_of_its_tables(tree, build):
    made = build("siim", tree, split="mgca")
    names = [line.partition(",")[0] for line in (tree / "train-rle.csv").read_text().splitlines()[1:]]
    train, rest = train_test_split(names, test_size=0.3, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    for split, listed in (("train", train), ("val", val), ("test", test)):
        patients = [one["patient"] for one in made.records[split].values()]
        assert patients == [name.replace("1.4.", "1.2.") for name in dict.fromkeys(listed)], split


def test_a_film_that_is_not_there_is_a_reject(tree, build):
    (tree / path(5)).unlink()
    made = build("siim", tree)
    assert [one["reason"].partition(":")[0] for one in made.rejected] == ["missing_image"]


def test_names_of_stage_2_and_flattened_films(tree, build):
    """A flattened copy's studies come from its headers: two films of one study stay in one split."""
    whole = build("siim", tree)
    (tree / "stage_2_images").mkdir()
    for number in range(24):
        header = pydicom.dcmread(tree / path(number))
        header.StudyInstanceUID = f"1.2.{number // 2}"
        header.save_as(tree / f"stage_2_images/1.4.{number}.dcm")
    shutil.rmtree(tree / "dicom-images-train")
    table = (tree / "train-rle.csv").read_text().replace(",", ".dcm,").replace("ImageId.dcm", "ImageId")
    (tree / "train-rle.csv").unlink()
    (tree / "stage_2_train.csv").write_text(table)
    made = build("siim", tree)
    assert made.rejected == []
    every = [(split, one) for split, part in made.records.items() for one in part.values()]
    assert len(every) == 24
    assert len({one["patient"] for _, one in every}) == 12 == len({(split, one["patient"]) for split, one in every})
    film_of = {one["image"].tobytes(): one for part in whole.records.values() for one in part.values()}
    for _, one in every:
        np.testing.assert_array_equal(one["lesion_mask"], film_of[one["image"].tobytes()]["lesion_mask"])
