"""CC-CCII on a tree of its layout: 8-bit slices in order, HKBU's lists, no Hounsfield units claimed."""

import json

import cv2
import numpy as np
import pytest

from data.errors import UserError
from tests.data.sets.conftest import picture

SCANS = {"CP": ("1", "2"), "NCP": ("10", "11"), "Normal": ("20", "21")}


@pytest.fixture
def tree(tmp_path):
    """Two patients a class, one scan each of 12 slices whose mean grows with their number."""
    for kind, patients in SCANS.items():
        for patient in patients:
            folder = tmp_path / "dataset_cleaned" / kind / patient / f"{patient}00"
            folder.mkdir(parents=True)
            for number in range(12):
                grey = picture(int(patient), (32, 32)) // 8 + 20 * number
                cv2.imwrite(str(folder / f"{number}.png"), grey)
    return tmp_path / "dataset_cleaned"


def test_folders_without_lists(tree, build):
    made = build("cc_ccii", tree)
    by_patient = {one["patient"]: one for split in made.records.values() for one in split.values()}
    assert by_patient.keys() == {f"{kind}/{patient}" for kind, patients in SCANS.items() for patient in patients}
    assert by_patient["NCP/10"]["labels"].tolist() == [0, 1, 0]
    volume = by_patient["CP/1"]["volume"].astype(float)
    assert (volume.min(), volume.max()) <= (-1000, 1000)
    means = volume.mean((1, 2))
    assert means[0] > means[16] > means[-1], "slice 0 is the highest: names are numbers, 10 comes after 9"
    # Grey 0 is -1000 and 255 is 1000: the middle of the record by hand, slices 5 and 6 of 12.
    grey = np.mean([picture(1, (32, 32)) // 8 + 20 * n for n in (5, 6)], axis=(1, 2))
    assert means[15:17].mean() == pytest.approx(-1000 + grey.mean() * 2000 / 255, abs=5)
    assert np.isnan(by_patient["CP/1"]["spacing_mm"]).all(), "nobody knows it"
    assert made.contract["source"]["hounsfield"] is False
    upside_down = build("cc_ccii", tree, first_slice="inferior")
    other = next(one for split in upside_down.records.values() for one in split.values() if one["patient"] == "CP/1")
    np.testing.assert_allclose(other["volume"][::-1], volume, atol=1)


def test_voco_s_folds_name_patient_and_scan(tree, build, tmp_path):
    for fold, test in ((0, "2"), (1, "11")):
        rows = [f"{patient},{patient}00,0" for patients in SCANS.values() for patient in patients]
        for part, lines in (
            ("train", [r for r in rows if r != f"{test},{test}00,0"]),
            ("valid", [f"{test},{test}00,0"]),
        ):
            text = "\n".join(["patient_id,scan_id,target", *lines, *(["99,9900,1"] if part == "valid" else [])])
            (tmp_path / f"CC_CCII_fold{fold}_{part}.csv").write_text(text + "\n")
    made = build("cc_ccii", tree, lists=str(tmp_path))
    assert made.splits() == {"train": 5, "test": 1}
    assert made.record("CP/2/200", "test")["labels"].tolist() == [1, 0, 0]
    assert made.contract["source"]["left_out"]["listed scans that are not in the tree"] == 1
    other = build("cc_ccii", tree, lists=str(tmp_path), fold=1)
    assert other.record("NCP/11/1100", "test")["labels"].tolist() == [0, 1, 0]


def test_hkbu_s_lists_give_order_and_split(tree, build, tmp_path):
    def names(start):
        return [f"{n}.png" for n in range(start, 12)]

    train = {kind: {patients[0]: {f"{patients[0]}00": names(2)}} for kind, patients in SCANS.items()}
    test = {kind: {patients[1]: {f"{patients[1]}00": names(0)}} for kind, patients in SCANS.items()}
    test["CP"]["2"]["201"] = ["0.png", "1.png"]
    test["NCP"]["11"]["1100"] = names(0)[::-1]
    for name, lists in (("ct_train.json", train), ("ct_test.json", test)):
        (tmp_path / name).write_text(json.dumps(lists))
    made = build("cc_ccii", tree, lists=str(tmp_path))
    assert made.splits() == {"train": 3, "test": 3}
    reversed_one = made.record("NCP/11/1100", "test")["volume"].mean((1, 2))
    assert reversed_one[0] < reversed_one[-1], "the order of the list counts, not that of the names"
    assert made.counted("scans of fewer than 4 slices 1")
    assert made.counted("train scans of CP 1 1,210 DIFFERS")
    assert made.counted("test 3 798 DIFFERS")
    (tmp_path / "ct_test.json").unlink()
    with pytest.raises(UserError, match=r"has no ct_test\.json \(there is ct_train\.json"):
        build("cc_ccii", tree, lists=str(tmp_path))


def test_bad_slices_are_rejects(tree, build):
    (tree / "CP/1/100/3.png").write_bytes(b"no picture")
    cv2.imwrite(str(tree / "CP/2/200/3.png"), picture(0, (40, 32)))
    made = build("cc_ccii", tree)
    assert [one["reason"].partition(":")[0] for one in made.rejected] == ["truncated", "mixed_size"]
