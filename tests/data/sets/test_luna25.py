"""LUNA25 on a tree of its layout: malignant or not by CT, nodules as balls of a chosen size."""

import numpy as np
import pytest
import SimpleITK

from data.errors import UserError
from tests.data.sets.conftest import chest, rows

SPACING, ORIGIN = (1.0, 1.0, 2.0), (-50.0, -60.0, -200.0)  # x y z
SHAPE = (24, 24, 12)


@pytest.fixture
def tree(tmp_path):
    """CTs 1 and 2 of one patient, 3 of another; 9 is not there. Malignant is one of CT 1's two nodules."""
    (tmp_path / "luna25_images").mkdir()
    for number in (1, 2, 3):
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(chest(number, SHAPE).transpose(2, 1, 0)))
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        SimpleITK.WriteImage(image, str(tmp_path / f"luna25_images/1.3.{number}.mha"))
    header = "PatientID,SeriesInstanceUID,StudyDate,CoordX,CoordY,CoordZ,LesionID,AnnotationID,NoduleID,label,Gender"
    place = f"{ORIGIN[0] + 12},{ORIGIN[1] + 6},{ORIGIN[2] + 10}"
    lines = [
        f"p{scan // 3},1.3.{scan},19990102,{place},1,a,n,{label},Male"
        for scan, label in ((1, 0), (1, 1), (2, 0), (3, 0))
    ]
    rows(
        tmp_path / "LUNA25_Public_Training_Development_Data.csv",
        header,
        *lines,
        f"p9,1.3.9,19990102,{place},1,a,n,1,Male",
    )
    return tmp_path


def every(made):
    return [one for part in made.records.values() for one in part.values()]


def test_labels_by_ct(tree, build):
    made = build("luna25", tree)
    assert sorted((one["patient"], one["labels"].tolist()) for one in every(made)) == [
        ("p0", [0]),
        ("p0", [1]),
        ("p1", [0]),
    ]
    assert "lesion_mask" not in every(made)[0]
    for line in ("CTs 4 4,069 DIFFERS", "nodules 5 6,163 DIFFERS", "malignant nodules 2 555 DIFFERS"):
        assert made.counted(line), line
    assert made.counted("CTs that are not in the tree 1")


def test_nodules_of_a_chosen_size(tree, build):
    """By hand: voxel (12, 6, 5), its middle 12.5, 6.5, 5.5 cells from the edge; 24 mm become 128 cells and 32."""
    one = every(build("luna25", tree, diameter_mm=6.0))[0]
    reach = 3 / np.array([24 / 32, 24 / 128, 24 / 128])
    middle = np.array([5.5 * 2, 6.5, 12.5]) / np.array([24 / 32, 24 / 128, 24 / 128])
    np.testing.assert_allclose(one["boxes"][0], [0, *(middle - reach), *(middle + reach)], rtol=1e-5)
    np.testing.assert_allclose(np.argwhere(one["lesion_mask"]).mean(0) + 0.5, middle, atol=0.3)
    with pytest.raises(UserError, match="diameter_mm is -1"):
        build("luna25", tree, diameter_mm=-1.0)
