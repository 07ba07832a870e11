"""FLARE22 on trees of its layout: nnU-Net's names, its own numbers of organs, the tuning part as test split."""

import numpy as np
import pytest

from data.errors import UserError
from data.sets import flare22
from tests.data.sets.conftest import ct
from tests.data.sets.test_organs import organs
from unimedi_jax.evaluation import segment_cases


@pytest.fixture
def tree(tmp_path):
    for number in (1, 2, 3):
        ct(tmp_path / f"FLARE22Train/images/FLARE22_Tr_{number:04d}_0000.nii.gz", number)
        ct(tmp_path / f"FLARE22Train/labels/FLARE22_Tr_{number:04d}.nii.gz", voxels=organs(1, 13, 4))
    return tmp_path


def test_labelled_cts(tree, build):
    made = build("flare22", tree)
    assert sum(made.splits().values()) == 3
    record = next(one for part in made.records.values() for one in part.values())
    assert set(np.unique(record["organ_mask"])) == {0, 1, 4, 13}
    assert segment_cases.organs(made.contract) == list(flare22.ORGANS)
    assert made.counted("labelled CTs 3 50 DIFFERS")


def test_the_tuning_part_is_the_test_split(tree, build):
    ct(tree / "tuning/images/FLARETs_0001_0000.nii.gz", 9)
    ct(tree / "tuning/labels/FLARETs_0001.nii.gz", voxels=organs(2))
    (tree / "FLARE22Train").rename(tree / "moved")
    (tree / "FLARE22Train").mkdir()
    (tree / "moved").rename(tree / "FLARE22Train/FLARE22Train")
    (tree / "FLARE22Train/FLARE22Train/labels/FLARE22_Tr_0002.nii.gz").unlink()
    made = build("flare22", tree)
    assert set(np.unique(made.record("tuning/images/FLARETs_0001_0000.nii.gz", "test")["organ_mask"])) == {0, 2}
    assert sum(made.splits().values()) == 3
    assert [one["reason"].partition(":")[0] for one in made.rejected] == ["missing_mask"]


def test_an_empty_tree_says_what_was_looked_for(tmp_path, build):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"has nothing to build of flare22: looked below it for FLARE22Train/images"):
        build("flare22", tmp_path)
