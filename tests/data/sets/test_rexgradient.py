"""ReXGradient-160K on a tree of its layout: several films a study, views that may lack, official splits."""

import json

import pytest

from tests.data.sets.conftest import film


@pytest.fixture
def tree(tmp_path):
    """Two films and one without a view for each of four studies; the second study of train says nothing."""
    number = 0
    for part, names in (("train", ("a", "b")), ("valid", ("c",)), ("test", ("d",))):
        table = {}
        for name in names:
            pictures = [f"P{name}/A{name}/studies/1.{name}/series/2.{k}/instances/3.{k}.png" for k in range(3)]
            for picture in pictures:
                number += 1
                film(tmp_path / "deid_png" / picture, number)
            table[f"pP{name}_A{name}_1.{name}"] = {
                "PatientID": f"P{name}",
                "AccessionNumber": f"A{name}",
                "StudyInstanceUid": f"1.{name}",
                "Indication": "Cough.",
                "Comparison": None,
                "Findings": None if name == "b" else f"The lungs of {name} are clear.",
                "Impression": "None" if name == "b" else "No acute disease of the chest.",
                "ImagePath": [f"../deid_png/{picture}" for picture in pictures],
                "ImageViewPosition": ["PA", "LATERAL"],
            }
        (tmp_path / "metadata").mkdir(exist_ok=True)
        (tmp_path / f"metadata/{part}_metadata_view_position.json").write_text(json.dumps(table))
    return tmp_path


def test_frontal_films_with_their_reports(tree, build):
    made = build("rexgradient", tree)
    assert made.splits() == {"train": 1, "val": 1, "test": 1}
    one = made.record("deid_png/Pc/Ac/studies/1.c/series/2.0/instances/3.0.png", "val")
    assert one["report"] == "No acute disease of the chest. The lungs of c are clear."
    assert one["patient"] == "Pc"
    assert one["view"] == "PA"
    assert one["study"]
    for line in (
        "studies 4 160,000 DIFFERS",
        "films 12 273,004 DIFFERS",
        "films of other views than PA,AP 8",
        "without a caption, left out 1",
    ):
        assert made.counted(line), line


def test_other_views(tree, build):
    assert build("rexgradient", tree, views="LATERAL,UNKNOWN").splits() == {"train": 2, "val": 2, "test": 2}
