"""BTCV and AMOS22 on trees of their layouts: organ masks by number, MR left out, splits."""

import shutil

import numpy as np
import pytest

from data.errors import UserError
from data.sets import amos22, btcv
from tests.data.sets.conftest import ct
from unimedi_jax.evaluation import segment_cases


def organs(*values):
    """A mask (x, y, z) of the CTs' shape: a block for each value, from right to left."""
    mask = np.zeros((24, 24, 12), np.uint8)
    for at, value in enumerate(values):
        mask[6 + 4 * at : 9 + 4 * at, 8:16, 3:9] = value
    return mask


@pytest.fixture
def abdomen(tmp_path):
    """BTCV: 0001, 0002 and 0035 labelled, 0061 not."""
    root = tmp_path / "RawData"
    for number in (1, 2, 35):
        ct(root / f"Training/img/img{number:04d}.nii.gz", number)
        ct(root / f"Training/label/label{number:04d}.nii.gz", voxels=organs(6, 1, 13))
    ct(root / "Testing/img/img0061.nii.gz", 61)
    return tmp_path


def test_btcv(abdomen, build):
    made = build("btcv", abdomen)
    assert made.splits() == {"train": 2, "test": 1}
    mask = made.record("RawData/Training/img/img0035.nii.gz", "test")["organ_mask"]
    assert set(np.unique(mask)) == {0, 1, 6, 13}
    # 24 voxels of 1 mm become 128 cells: the blocks begin at 6, 10 and 14 of 24, and are 3 of 24 wide.
    for value, start in ((6, 6), (1, 10), (13, 14)):
        _, y, x = np.nonzero(mask == value)
        assert x.min() == pytest.approx(start * 128 / 24, abs=1)
        assert x.max() + 1 == pytest.approx((start + 3) * 128 / 24, abs=1)
        assert (y.min(), y.max() + 1) == pytest.approx((8 * 128 / 24, 16 * 128 / 24), abs=1)
    assert segment_cases.organs(made.contract) == list(btcv.ORGANS), "the names that the segmentation job reports"
    assert made.contract["tokenizer"]["sha256"] == "", "no text, no vocabulary"
    for line in ("labelled CTs 3 30 DIFFERS", "unlabelled CTs 1 20 DIFFERS", "unlabelled CTs 1", "val 0 -"):
        assert made.counted(line), line


def test_btcv_without_a_mask(abdomen, build):
    (abdomen / "RawData/Training/label/label0002.nii.gz").unlink()
    made = build("btcv", abdomen / "RawData")
    assert [(one["path"], one["reason"].partition(":")[0]) for one in made.rejected] == [
        ("Training/img/img0002.nii.gz", "missing_mask")
    ]
    (abdomen / "RawData/Training/img").rename(abdomen / "RawData/Training/images")
    with pytest.raises(UserError, match=r"has no Training/img or imagesTr \(there is images"):
        build("btcv", abdomen)


@pytest.fixture
def multi(tmp_path):
    """AMOS22: CTs 1, 4 (train), 8 (val), 9 (test); MR 507 and 580."""
    for part, numbers in (("Tr", (1, 4, 507)), ("Va", (8, 580)), ("Ts", (9,))):
        for number in numbers:
            ct(tmp_path / f"amos22/images{part}/amos_{number:04d}.nii.gz", number)
            ct(tmp_path / f"amos22/labels{part}/amos_{number:04d}.nii.gz", voxels=organs(15, 10))
    (tmp_path / "amos22/dataset.json").write_text("{}")
    return tmp_path


def test_amos22(multi, build):
    made = build("amos22", multi)
    assert made.splits() == {"train": 2, "val": 1, "test": 1}
    assert set(np.unique(made.record("amos22/imagesTs/amos_0009.nii.gz", "test")["organ_mask"])) == {0, 10, 15}
    assert segment_cases.organs(made.contract) == list(amos22.ORGANS)
    assert made.counted("scans beyond id 500 (MR) 2")
    assert made.counted("CTs of Tr 2 200 DIFFERS")


def test_amos22_without_labels_of_the_test_part(multi, build):
    (multi / "amos22/labelsTs/amos_0009.nii.gz").unlink()
    made = build("amos22", multi / "amos22")
    assert made.splits() == {"train": 2, "test": 1}
    assert made.contract["source"]["test"].startswith("imagesVa")
    assert made.counted("unlabelled CTs 1")


@pytest.mark.parametrize("layout", ["Abdomen", "MONAI"])
def test_btcv_s_other_trees(abdomen, build, layout):
    whole = build("btcv", abdomen)
    if layout == "Abdomen":
        (abdomen / "Abdomen").mkdir()
        (abdomen / "RawData").rename(abdomen / "Abdomen/RawData")
        path = "Abdomen/RawData/Training/img/img0035.nii.gz"
    else:
        for name, folder in (("Training/img", "imagesTr"), ("Training/label", "labelsTr"), ("Testing/img", "imagesTs")):
            (abdomen / "RawData" / name).rename(abdomen / folder)
        shutil.rmtree(abdomen / "RawData")
        (abdomen / "dataset_0.json").write_text("{}")
        path = "imagesTr/img0035.nii.gz"
    made = build("btcv", abdomen)
    assert made.splits() == whole.splits()
    assert made.counted("unlabelled CTs 1 20 DIFFERS")
    plain = whole.record("RawData/Training/img/img0035.nii.gz", "test")["organ_mask"]
    np.testing.assert_array_equal(made.record(path, "test")["organ_mask"], plain)
