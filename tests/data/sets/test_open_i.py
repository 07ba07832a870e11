"""Open-i on trees of both its layouts: NLM's XML, and the two tables of Kaggle's copy."""

import pytest

from data.errors import UserError
from tests.data.sets.conftest import film, rows

XML = """<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="CXR{n}"/>
<MedlineCitation><Article><Abstract><AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough</AbstractText><AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>Cardiomegaly/mild</major><automatic>heart</automatic></MeSH>{images}</eCitation>"""


def test_nlm_s_xml(tmp_path, build):
    for number in range(1, 7):
        names = [f"CXR{number}_IM-000{number}-{view}001" for view in (1, 2)][: 0 if number == 5 else 2]
        for view, name in enumerate(names):
            film(tmp_path / "NLMCXR_png" / f"{name}.png", 10 * number + view)
        images = "".join(f'<parentImage id="{name}"><figureId>F1</figureId></parentImage>' for name in names)
        findings = "" if number == 2 else f"The lungs are clear in case {number}. XXXX heart."
        impression = "" if number in (2, 3) else "No acute disease."
        text = XML.format(n=number, findings=findings, impression=impression, images=images)
        path = tmp_path / "NLMCXR_reports" / "ecgen-radiology" / f"{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text[:200] if number == 6 else text)
    made = build("open_i", tmp_path, views="unknown", labels="cardiomegaly,pleural effusion")
    all_records = [one for split in made.records.values() for one in split.values()]
    assert sorted(one["patient"] for one in all_records) == ["1", "1", "3", "3", "4", "4"]
    assert {one["report"] for one in all_records if one["patient"] == "1"} == {
        "No acute disease. The lungs are clear in case 1. XXXX heart."
    }
    assert all_records[0]["labels"].tolist() == [1, 0]
    assert [one["reason"] for one in made.rejected] == ["truncated: the XML ends early or is damaged"]
    for line in (
        "reports 5 3,955 in NLM's release",
        "reports without a picture 1",
        "without a caption, left out 2",
        "with blanks 6",
    ):
        assert made.counted(line), line


@pytest.fixture
def kaggle(tmp_path):
    header = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
    lines = [f"{n},normal,normal,Chest PA,Cough,None.,The lungs are clear in case {n}.,Normal." for n in range(1, 6)]
    rows(tmp_path / "indiana_reports.csv", header, *lines)
    shown = [f"{n}_IM-0001-{view}001.dcm.png" for n in range(1, 6) for view in (3, 4)]
    for number, name in enumerate(shown):
        film(tmp_path / "images/images_normalized" / name, number)
    lines = [f"{name.partition('_')[0]},{name},{('Lateral', 'Frontal')['-4001' in name]}" for name in shown]
    rows(tmp_path / "indiana_projections.csv", "uid,filename,projection", *lines)
    return tmp_path


def test_kaggle_s_tables(kaggle, build):
    made = build("open_i", kaggle)
    assert sum(made.splits().values()) == 5
    assert made.counted("films of lateral view 5")
    assert {one["report"] for split in made.records.values() for one in split.values()} == {
        f"Normal. The lungs are clear in case {n}." for n in range(1, 6)
    }
    assert sum(build("open_i", kaggle, views="frontal,lateral").splits().values()) == 10


def test_what_is_missing(kaggle, build):
    (kaggle / "indiana_projections.csv").unlink()
    with pytest.raises(UserError, match=r"has no indiana_projections\.csv"):
        build("open_i", kaggle)
    with pytest.raises(UserError, match=r"config\.options\.views is 'oblique'"):
        build("open_i", kaggle, views="oblique")
