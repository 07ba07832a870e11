"""LUNA16 on a tree of its layout: world coordinates through any header, balls and boxes, subsets as splits."""

import shutil

import numpy as np
import pytest
import SimpleITK

from data import record_grid
from data.errors import UserError
from data.readers import geometry, placement
from data.readers.files import BadInput
from data.sets import annotations
from tests.data.sets.conftest import chest, rows

SHAPE, SPACING, ORIGIN = (40, 48, 48), (2.5, 1.0, 1.0), (-100.0, -50.0, -200.0)  # z y x; z y x; x y z
NODULE = (-80.0, -20.0, -140.0, 12.0)  # world x, y, z and diameter in mm
FLIPPED = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)  # the header of a scan stored from left and back


def mhd(path, seed, flipped=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = chest(seed, SHAPE[::-1]).transpose(2, 1, 0)
    origin = list(ORIGIN)
    if flipped:
        voxels = voxels[:, ::-1, ::-1]
        origin[0] += (SHAPE[2] - 1) * SPACING[2]
        origin[1] += (SHAPE[1] - 1) * SPACING[1]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels))
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(origin)
    if flipped:
        image.SetDirection(FLIPPED)
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def tree(tmp_path):
    for subset, name in ((0, "1.3.6.1"), (0, "1.3.6.2"), (1, "1.3.6.3"), (2, "1.3.6.4"), (3, "1.3.6.5")):
        mhd(tmp_path / f"subset{subset}" / f"{name}.mhd", int(name[-1]), flipped=name == "1.3.6.2")
    x, y, z, diameter = NODULE
    lines = [f"1.3.6.{n},{x},{y},{z},{diameter}" for n in (1, 2, 4)] + [f"1.3.6.5,{x},{y},{z},2.5"]
    rows(tmp_path / "annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm", *lines, "1.3.9.9,0,0,0,5")
    return tmp_path


def test_a_nodule_lies_where_its_world_coordinates_say(tree, build):
    made = build("luna16", tree)
    assert made.splits() == {"train": 2, "val": 1, "test": 2}
    plain, flipped = (made.record(f"subset0/1.3.6.{n}.mhd", "test") for n in (1, 2))
    # By hand: voxel (x, y, z) = (20, 30, 24), its middle 20.5, 30.5, 24.5 cells from the edge. In plane 48 mm become
    # 128 cells of 0.375 mm; along z 100 mm become 32 cells of 3.125 mm. The radius is 6 mm.
    middle = np.array([24.5 * 2.5 / 3.125, 30.5 / 0.375, 20.5 / 0.375])
    reach = 6 / np.array([3.125, 0.375, 0.375])
    np.testing.assert_allclose(plain["boxes"], [[0, *(middle - reach), *(middle + reach)]], rtol=1e-5)
    inside = np.argwhere(plain["lesion_mask"])
    np.testing.assert_allclose(inside.mean(0) + 0.5, middle, atol=0.3)
    cells = 4 / 3 * np.pi * np.prod(reach)
    assert (plain["lesion_mask"] == 1).sum() == pytest.approx(cells, rel=0.15)
    np.testing.assert_array_equal(flipped["lesion_mask"], plain["lesion_mask"])
    np.testing.assert_allclose(flipped["boxes"], plain["boxes"], rtol=1e-5)
    empty = made.record("subset1/1.3.6.3.mhd", "val")
    assert empty["labels"].tolist() == [0]
    assert empty["boxes"].shape == (0, 7)
    assert not empty["lesion_mask"].any()
    for line in ("CTs 5 888 DIFFERS", "CTs of subset0 2 89 DIFFERS", "nodules listed 5 -", "nodules on these CTs 4 -"):
        assert made.counted(line), line


def test_models_genesis_s_folds(tree, build):
    for old, new in ((0, 4), (1, 5), (2, 8), (3, 9)):
        (tree / f"subset{old}").rename(tree / f"subset{new}")
    made = build("luna16", tree, split="genesis")
    assert made.splits() == {"train": 2, "val": 1, "test": 2}
    assert made.contract["source"]["options"]["split"] == "genesis"
    assert made.record("subset8/1.3.6.4.mhd", "test")["labels"].tolist() == [1]


def test_candidates_lie_on_the_record_and_in_its_file(tree, build):
    x, y, z, _ = NODULE
    rows(
        tree / "candidates_V2.csv",
        "seriesuid,coordX,coordY,coordZ,class",
        f"1.3.6.1,{x},{y},{z},1",
        f"1.3.6.2,{x + 10},{y},{z},0",
        "1.3.9.9,0,0,0,0",
    )
    rows(
        tree / "CSVFILES/annotations_excluded.csv",
        "seriesuid,coordX,coordY,coordZ,diameter_mm",
        f"1.3.6.2,{x},{y},{z},7",
        f"1.3.6.2,{x},{y},{z},-1",  # a non-nodule, as most of the table
    )
    made = build("luna16", tree, candidates=True)
    assert {"candidates", "excluded"} <= set(made.contract["truth"])
    plain, flipped = (made.record(f"subset0/1.3.6.{n}.mhd", "test") for n in (1, 2))
    middle = (plain["boxes"][0, 1:4] + plain["boxes"][0, 4:]) / 2
    np.testing.assert_allclose(plain["candidates"], [[1, *middle]], rtol=1e-4)
    np.testing.assert_allclose(flipped["candidates"], [[0, middle[0], middle[1], middle[2] + 10 / 0.375]], rtol=1e-4)
    np.testing.assert_allclose(flipped["excluded"], [[*middle, 7], [*middle, 10]], rtol=1e-4)
    assert plain["excluded"].shape == (0, 4)
    assert made.record("subset1/1.3.6.3.mhd", "val")["candidates"].shape == (0, 4)


def test_the_voxel_agrees_with_simpleitk(tree):
    image = SimpleITK.ReadImage(str(tree / "subset0/1.3.6.1.mhd"))
    assert image.TransformPhysicalPointToIndex(NODULE[:3]) == (20, 30, 24)


def test_small_nodules_and_other_subsets(tree, build):
    made = build("luna16", tree, smallest_mm=3.0, test=2, val=3)
    assert made.splits() == {"train": 3, "val": 1, "test": 1}
    assert made.record("subset3/1.3.6.5.mhd", "val")["labels"].tolist() == [0]
    with pytest.raises(UserError, match="two different subsets"):
        build("luna16", tree, test=1, val=1)
    with pytest.raises(UserError, match="has no subset9"):
        build("luna16", tree, test=9)


def test_balls_at_the_rim_and_outside():
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    affine[:3, 3] = ORIGIN
    scan = geometry.Grid(SHAPE[::-1], affine)
    placed = placement.place(SPACING, record_grid.DEFAULT, tuple(slice(0, n) for n in SHAPE))
    boxes, mask = annotations.balls([(-100.0, -50.0, -200.0, 0.1)], scan, placed)
    assert mask.sum() == 1, "smaller than a cell: the cell of its middle"
    assert boxes[0, 1:4].min() >= 0
    with pytest.raises(BadInput, match="outside its scan"):
        annotations.balls([(0.0, 0.0, 500.0, 5.0)], scan, placed)
    assert mask.shape == geometry.VOLUME_SHAPE


def test_nested_subsets_and_tables_in_their_folder(tree, build):
    whole = build("luna16", tree)
    for subset in range(4):
        (tree / f"subset{subset}").rename(tree / "moved")
        (tree / f"subset{subset}").mkdir()
        (tree / "moved").rename(tree / f"subset{subset}/subset{subset}")
    (tree / "CSVFILES").mkdir()
    (tree / "annotations.csv").rename(tree / "CSVFILES/annotations.csv")
    made = build("luna16", tree)
    assert made.splits() == whole.splits()
    nested = made.record("subset0/subset0/1.3.6.1.mhd", "test")
    np.testing.assert_array_equal(nested["boxes"], whole.record("subset0/1.3.6.1.mhd", "test")["boxes"])


def test_subset0_alone_is_a_set_to_evaluate_on(tree, build):
    """The paper's check of slices needs no more."""
    for subset in (1, 2, 3):
        shutil.rmtree(tree / f"subset{subset}")
    assert build("luna16", tree).splits() == {"test": 2}


def test_an_empty_subset_says_what_was_looked_for(tree, build):
    for subset in range(4):
        shutil.rmtree(tree / f"subset{subset}")
    (tree / "subset0").mkdir()
    with pytest.raises(
        UserError, match=r"has nothing to build of luna16: looked below it for subset0/<seriesuid>\.mhd"
    ):
        build("luna16", tree)
