"""RAD-ChestCT on a tree of its layout: volumes of .npz, the topmost slice first, abnormalities at any location."""

import numpy as np
import pytest

from data.errors import UserError
from data.readers import npz
from data.readers.files import BadInput
from tests.data.sets.conftest import chest, rows

COLUMNS = ("mass*lung", "mass*heart", "atelectasis*left_lung")


def volume(path, seed, **changes):
    """(slice, row, column), clipped as the publishers do, its upper third without a body."""
    hu = np.clip(chest(seed, (24, 24, 15)).transpose(2, 1, 0), -1000, 1000)
    hu[:5] = -1000
    np.savez_compressed(path, **{"ct": hu.astype(np.int16), **changes})


@pytest.fixture
def tree(tmp_path):
    for part, name, values in (
        ("train", "trn00001", "1,0,0"),
        ("valid", "val00001", "0,1,1"),
        ("test", "tst00001", "0,0,0"),
    ):
        header = ",".join(("NoteAcc_DEID", *COLUMNS))
        more = ["trn00002,0,0,0"] if part == "train" else []
        rows(tmp_path / f"img{part}_Abnormality_and_Location_Labels.csv", header, f"{name},{values}", *more)
        volume(tmp_path / f"{name}.npz", len(part))
    return tmp_path


def test_volumes_and_abnormalities(tree, build):
    made = build("rad_chestct", tree)
    assert made.splits() == {"train": 1, "val": 1, "test": 1}
    one = made.record("trn00001.npz", "train")
    assert made.contract["labels"] == ["atelectasis", "mass"]
    assert one["labels"].tolist() == [0, 1]
    assert made.record("val00001.npz", "val")["labels"].tolist() == [1, 1]
    assert one["volume"][-9:].max() < -900, "the record grows to Superior: the part without a body is its end"
    assert one["volume"][5].max() > 0
    np.testing.assert_allclose(one["spacing_mm"], [15 * 0.8 / 32, 24 * 0.8 / 128, 24 * 0.8 / 128], rtol=1e-5)
    assert one["patient"] == "trn00001"
    for line in ("CTs 4 3,630 DIFFERS", "abnormalities 2 84 DIFFERS", "CTs that are not in the tree 1"):
        assert made.counted(line), line


def test_patients_of_the_table_of_headers(tree, build):
    rows(
        tree / "CT_Scan_Metadata_Complete_35747.csv",
        "NoteAcc_DEID,MRN_DEID",
        "trn00001,PT1",
        "val00001,PT2",
        "tst00001,PT2",
    )
    made = build("rad_chestct", tree)
    assert made.splits() == {"train": 1}
    assert {one["reason"].partition(":")[0] for one in made.rejected} == {"leak_patient"}


def test_tables_that_differ(tree, build):
    path = tree / "imgvalid_Abnormality_and_Location_Labels.csv"
    path.write_text(path.read_text().replace("mass*heart", "cyst*heart"))
    with pytest.raises(UserError, match="other abnormalities than the tables of the other parts"):
        build("rad_chestct", tree)


class Code:
    """What a stranger's file must not run."""

    def __reduce__(self):
        raise AssertionError("unpickled")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"other": np.zeros((8, 8, 8), np.int16)}, "bad_header"),
        ({"ct": np.zeros((8, 8), np.int16)}, "not_3d"),
        ({"ct": np.zeros((8, 8, 8), "<U3")}, "not_scalar"),
        (b"PK\x03\x04 and no more", "truncated"),
    ],
)
def test_files_that_are_none(tmp_path, content, code):
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez_compressed(path, **content)
    with pytest.raises(BadInput) as caught:
        npz.read_array(path, "ct", 3)
    assert caught.value.code == code


def test_a_claim_of_too_many_voxels_is_refused_before_unpacking(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", ct=np.zeros((64, 64, 64), np.int16))
    monkeypatch.setattr(npz, "MAX_BYTES", 1000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(BadInput, match="too_large"):
        npz.read_array(tmp_path / "x.npz", "ct", 3)
