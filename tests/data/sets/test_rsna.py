"""RSNA on a tree of its layout: one row a box, films of 128 pixels, both of MGCA's splits."""

import cv2
import numpy as np
import pydicom
import pytest
from sklearn.model_selection import train_test_split

from data.errors import UserError
from data.readers import xrays
from tests import dicoms
from tests.data.sets.conftest import film, rows
from unimedi_jax.input import dense

PATIENTS = [f"{n:04d}a6f-7135" for n in range(20)]
HEADER = "patientId,x,y,width,height,Target"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    from data.sets import rsna

    monkeypatch.setitem(rsna.SPLITS, "detection", 8)  # 5,337 each of 26,684
    for number, patient in enumerate(PATIENTS):
        film(tmp_path / "stage_2_train_images" / f"{patient}.dcm", number, (128, 128))
    lines = [f"{patient},,,,,0" for patient in PATIENTS[3:]]
    # The table is in no order; the first patient has two boxes.
    lines[5:5] = [f"{PATIENTS[0]},10.0,20.0,30.0,40.0,1", f"{PATIENTS[1]},0,0,128,64,1"]
    lines += [f"{PATIENTS[0]},64,64,32,16,1", f"{PATIENTS[2]},100,100,40,20,1"]
    rows(tmp_path / "stage_2_train_labels.csv", HEADER, *lines)
    rows(tmp_path / "stage_2_detailed_class_info.csv", "patientId,class")
    return tmp_path


def test_boxes_labels_and_masks(tree, build):
    made = build("rsna", tree)
    by_patient = {one["patient"]: one for split in made.records.values() for one in split.values()}
    assert len(by_patient) == 20
    # Films of 128 pixels become 256: coordinates double. Label, y0, x0, y1, x1.
    assert by_patient[PATIENTS[0]]["boxes"].tolist() == [[0, 40, 20, 120, 80], [0, 128, 128, 160, 192]]
    assert by_patient[PATIENTS[1]]["boxes"].tolist() == [[0, 0, 0, 128, 256]]
    assert by_patient[PATIENTS[2]]["boxes"].tolist() == [[0, 200, 200, 240, 256]], "cut at the film's edge"
    assert made.contract["notes"]["boxes_clipped"] == 1
    assert by_patient[PATIENTS[7]]["boxes"].shape == (0, 5)
    assert [by_patient[PATIENTS[n]]["labels"].tolist() for n in (0, 7)] == [[1], [0]]
    union = np.zeros((256, 256), bool)
    union[40:120, 20:80] = union[128:160, 128:192] = True
    np.testing.assert_array_equal(dense.truth(by_patient[PATIENTS[0]], "boxes") > 0, union)
    assert made.contract["truth"] == ["boxes"]
    for line in (
        "patients 20 26,684 DIFFERS",
        "with pneumonia 3 6,012 DIFFERS",
        "without 17 20,672 DIFFERS",
        "rows 21 30,227 DIFFERS",
        "boxes 4 9,555 DIFFERS",
        "train 12 16,010 DIFFERS",
    ):
        assert made.counted(line), line


@pytest.mark.parametrize(("split", "held_out"), [("detection", 8), ("classification", 0.3)])
def test_the_splits_are_mgca_s(tree, build, split, held_out):
    """Patients in the order of their names, as pandas groups them; of the rest the first half is the test."""
    made = build("rsna", tree, split=split)
    train, rest = train_test_split(sorted(PATIENTS), test_size=held_out, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    for side, part in (("train", train), ("val", val), ("test", test)):
        assert [one["patient"] for one in made.records[side].values()] == part, "in the lists' order"


def test_greys_by_the_largest_value_are_opencv_s(tmp_path):
    """As MGCA reads a film of 12 bits whose window shows less of it."""
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 3000, (64, 64)).astype(np.uint16)
    made = dicoms.dataset(
        stored,
        Modality="CR",
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        WindowCenter=800,
        WindowWidth=400,
        SOPClassUID=pydicom.uid.ComputedRadiographyImageStorage,
    )
    made.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    shown = xrays.read_film(tmp_path / "film.dcm", by_largest=True).pixels
    expected = cv2.convertScaleAbs(stored, alpha=255.0 / stored.max())
    np.testing.assert_array_equal(shown, expected)
    assert (xrays.read_film(tmp_path / "film.dcm").pixels != shown).mean() > 0.5


def test_a_missing_folder_is_one_line(tree, build):
    (tree / "stage_2_train_images").rename(tree / "stage_2_train_image")
    with pytest.raises(UserError, match=r"has no stage_2_train_images \(there is stage_2_train_image"):
        build("rsna", tree)
