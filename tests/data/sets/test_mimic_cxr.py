"""MIMIC-CXR on a tree of its layout: views, official split, sections, MIT-LCP's exceptions, MGCA's switch."""

import math
import shutil

import pytest

from data.errors import UserError
from data.sets import mimic_cxr
from data.sets.chexpert import LABELS
from tests.data.sets.conftest import film, rows

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman.

 FINDINGS:

 The lungs are clear.  {n} cm nodule.

 IMPRESSION:

 No pneumonia in case {n}.
"""
NAMELESS = " EXAMINATION:  CHEST\n\n INDICATION:  Cough.\n \n The lungs are clear in the left chest.\n"
UNDER = " RECOMMENDATION(S):  The heart is normal in size, no effusion.\n\n NOTIFICATION:  Called.\n"
BETWEEN = "x" * 59 + "The lungs are hyperinflated without effusion." + "y" * 400
# subject, study, film, split, view, report
STUDIES = (
    ("10000032", "50414267", "a1", "train", "PA", REPORT.format(n=1)),
    ("10000032", "50414267", "a2", "train", "LATERAL", REPORT.format(n=1)),
    ("10000032", "53189527", "a3", "train", "AP", REPORT.format(n=2)),
    ("10000764", "57375967", "b1", "validate", "AP", REPORT.format(n=3)),
    ("10000898", "50771383", "c1", "test", "PA", REPORT.format(n=4)),
    ("10000935", "50578979", "d1", "train", "", REPORT.format(n=5)),
    ("10000980", "50985099", "e1", "train", "AP", NAMELESS),
    ("10000980", "51967283", "e2", "train", "AP", None),
    ("11851243", "50913680", "f1", "train", "AP", UNDER),
    ("13894879", "50196495", "g1", "train", "AP", BETWEEN),
    ("11573679", "58235663", "h1", "train", "AP", "Nothing here to read, the lungs."),
)


def path(name):
    subject, study = next((one[0], one[1]) for one in STUDIES if one[2] == name)
    return f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg"


@pytest.fixture
def tree(tmp_path):
    root, texts = tmp_path / "mimic-cxr-jpg" / "2.0.0", tmp_path / "mimic-cxr" / "2.0.0"
    for number, (subject, study, name, _, _, report) in enumerate(STUDIES):
        film(root / path(name), number)
        if report is not None:
            text = texts / f"files/p{subject[:2]}/p{subject}/s{study}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(report)
    start = f"{root}/mimic-cxr-2.0.0"
    of_splits = [f"{name},{study},{subject},{split}" for subject, study, name, split, _, _ in STUDIES]
    rows(root / f"{start}-split.csv", "dicom_id,study_id,subject_id,split", *of_splits)
    of_views = [f"{name},{subject},{study},CHEST,{view},2544" for subject, study, name, _, view, _ in STUDIES]
    header = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows"
    rows(root / f"{start}-metadata.csv", header, *of_views)
    blank = "," * (len(LABELS) - 3)
    rows(
        root / f"{start}-chexpert.csv",
        f"subject_id,study_id,{','.join(LABELS)}",
        f"10000032,50414267,1.0,0.0,-1.0{blank}",
    )
    return root, texts


def test_the_whole_set(tree, build):
    root, texts = tree
    made = build("mimic_cxr", root, reports=str(texts))
    assert made.splits() == {"train": 4, "val": 1, "test": 1}
    first = made.record(path("a1"), "train")
    assert first["report"] == "no pneumonia in case the lungs are clear 1 cm nodule", "MGCA loses `1.`"
    assert first["patient"] == "p10000032"
    assert (first["study"], first["view"]) == ("s50414267", "PA")
    assert made.contract["source"]["columns"] == ["study", "view"]
    assert made.contract["labels"] == list(LABELS)
    assert first["labels"][:2].tolist() == [1, 0]
    assert all(map(math.isnan, first["labels"][2:]))
    assert made.record(path("f1"), "train")["report"].startswith("the heart is normal")
    assert made.record(path("g1"), "train")["report"].startswith("the lungs are hyperinflated without effusion")
    for line in (
        "films in the split table 11 377,110 DIFFERS",
        "films of these views with a report 8 about 217,000, by the authors",
        "films of other views than PA,AP 2",
        "films of studies without a report 1",
        "without a caption, left out 2",
        "with impression 4",
        "language en 6",
    ):
        assert made.counted(line), line
    assert made.rejected == []
    assert made.contract["source"]["reports"]["style"] == "mgca"


def test_headings_are_those_of_mit_lcp_s_section_files(tree, build):
    """A heading in small letters is a sentence there, an unknown one in capitals ends the findings."""
    root, texts = tree
    report = " FINDINGS:\n The lungs are clear in the chest.\n Impression: of a nodule.\n BONES:  Old rib fracture.\n"
    (texts / path("a1")).parent.with_suffix(".txt").write_text(report)
    made = build("mimic_cxr", root, {"style": "plain"}, reports=str(texts))
    assert made.record(path("a1"), "train")["report"] == "The lungs are clear in the chest. Impression: of a nodule."
    assert "headings" not in made.contract["source"]["reports"]


def test_mgca_s_split_merges_validation_and_test_and_leaves_out_custom_ranges(tree, build):
    root, texts = tree
    made = build("mimic_cxr", root, reports=str(texts), split="mgca")
    assert made.splits() == {"train": 3, "val": 2}
    assert made.counted("films of studies without a report 3")


def test_reports_in_mit_lcp_s_section_table(tree, build, tmp_path):
    table = rows(
        tmp_path / "mimic_cxr_sectioned.csv",
        "study,impression,findings,last_paragraph,comparison",
        's50414267,"No\n pneumonia, seen.",,,',
        "s53189527,,,A paragraph of the lungs.,",
        "s57375967,,Clear lungs.,,",
    )
    report = {"style": "plain", "empty": "last_paragraph"}
    made = build("mimic_cxr", tree[0], report, reports=str(table), labeler="", views="PA,AP,LATERAL")
    lateral, frontal = (made.record(path(name), "train") for name in ("a2", "a1"))
    assert lateral["report"] == "No pneumonia, seen."
    assert lateral["study"] == frontal["study"]
    assert (lateral["view"], frontal["view"]) == ("LATERAL", "PA")
    assert made.contract["pictures_sharing_a_report"] == 2
    assert made.record(path("a3"), "train")["report"] == "A paragraph of the lungs."
    assert made.splits() == {"train": 3, "val": 1}


def test_packed_tables_and_missing_pictures(tree, build):
    import gzip

    root, texts = tree
    for table in root.glob("*.csv"):
        table.with_name(table.name + ".gz").write_bytes(gzip.compress(table.read_bytes()))
        table.unlink()
    (root / path("a1")).unlink()
    made = build("mimic_cxr", root, reports=str(texts), uncertain="ones")
    assert [(one["path"], one["reason"]) for one in made.rejected] == [
        (path("a1"), "missing_image: there is no such file")
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "mimic-cxr-2.0.0-split.csv").rename(root / "split.csv"),
            "has no mimic-cxr-2.0.0-split.csv",
        ),
        (lambda root: rows(root / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,view"), "lacks the columns ViewPosition"),
        (lambda root: (root / "mimic-cxr-2.0.0-chexpert.csv").unlink(), r"there is mimic-cxr-2\.0\.0-split\.csv"),
    ],
)
def test_files_that_are_missing_or_renamed(tree, build, spoil, message):
    root, texts = tree
    spoil(root)
    with pytest.raises(UserError, match=message) as caught:
        build("mimic_cxr", root, reports=str(texts))
    assert "\n" not in str(caught.value)


def test_a_folder_without_reports_says_so(tree, tmp_path, build):
    with pytest.raises(UserError, match=r"no files/p10/.*config\.options\.reports"):
        build("mimic_cxr", tree[0], reports=str(tmp_path))
    with pytest.raises(UserError, match=r"config\.options\.split is 'x': one of official, mgca"):
        build("mimic_cxr", tree[0], split="x")


def test_the_exceptions_are_of_the_form_of_study_ids():
    assert len(mimic_cxr.UNDER) == 23
    assert len(mimic_cxr.BETWEEN) == 31
    assert sum(one == (0, 0) for one in mimic_cxr.BETWEEN.values()) == 8
    assert all(len(study) == 9 and study.startswith("s5") for study in (*mimic_cxr.UNDER, *mimic_cxr.BETWEEN))


@pytest.mark.parametrize(("folder", "suffix"), [("files", "jpg"), ("images", "png"), ("", "jpg"), (None, "jpg")])
def test_flattened_copies(tree, build, folder, suffix):
    """All films in one folder, or the tree without its `files/`."""
    root, texts = tree
    if folder is None:
        for subjects in (root / "files").iterdir():
            subjects.rename(root / subjects.name)
        expected = path("a1").removeprefix("files/")
    else:
        shutil.rmtree(root / "files")
        for number, (_, _, name, *_) in enumerate(STUDIES):
            film(root / folder / f"{name}.{suffix}", number)
        expected = f"{folder}/a1.{suffix}".lstrip("/")
    made = build("mimic_cxr", root, reports=str(texts))
    assert made.record(expected, "train")["patient"] == "p10000032"
    assert made.splits() == {"train": 4, "val": 1, "test": 1}


def test_a_tree_without_films_says_where_it_looked(tree, build):
    root, texts = tree
    for film_path in root.rglob("*.jpg"):
        film_path.unlink()
    (root / "files").rename(root / "films")
    with pytest.raises(UserError, match=r"has no X-rays: looked below it for files/p10/.*README"):
        build("mimic_cxr", root, reports=str(texts))


def test_what_a_report_does_not_mention_is_unknown_or_absent(tree, build):
    root, texts = tree
    for blank, isnan in (("unknown", True), ("negative", False)):
        made = build("mimic_cxr", root, reports=str(texts), blank=blank)
        labels = made.record(path("a1"), "train")["labels"]
        assert labels[:2].tolist() == [1, 0]
        assert math.isnan(labels[2]), "-1 stays what `uncertain` says"
        assert math.isnan(labels[3]) is isnan
