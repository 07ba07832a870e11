"""BIMCV-COVID19 on a tree of its layout: names, the labels table, Spanish, whole numbers beyond 16 bits."""

import base64
import json
import math

import cv2
import numpy as np
import pytest

from data.errors import UserError
from tests.data.sets.conftest import chest, ct, film, rows

SPANISH = "No se observa derrame pleural en el hemitórax {}. Corazón de tamaño normal."
HEADER = "PatientID\tReportID\tReport\tLabels\tLocalizations"
SCANS = (
    "sub-S03044/ses-E06147/mod-ct/sub-S03044_ses-E06147_run-1_bp-chest_ct.nii.gz",
    "sub-S03044/ses-E06147/mod-ct/sub-S03044_ses-E06147_acq-2_run-2_bp-chest_ct.nii.gz",
    "sub-S03045/ses-E06148/mod-ct/sub-S03045_ses-E06148_run-1_bp-chest_ct.nii.gz",
    "sub-S03046/ses-E06149/mod-ct/sub-S03046_ses-E06149_run-1_bp-chest_ct.nii.gz",
    "sub-S03047/ses-E06150/mod-ct/sub-S03047_ses-E06150_run-1_bp-abdomen_ct.nii.gz",
    "sub-S03048/ses-E06151/mod-ct/sub-S03048_ses-E06151_run-1_bp-chest_ct.nii.gz",
)
FILMS = (
    "sub-S03044/ses-E07985/mod-rx/sub-S03044_ses-E07985_run-1_bp-chest_vp-ap_dx.png",
    "sub-S03044/ses-E07985/mod-rx/sub-S03044_ses-E07985_run-2_bp-chest_vp-ll_cr.png",
)


@pytest.fixture
def tree(tmp_path):
    """The third CT is stored in 32 bits with a spike beyond 16; the fourth has no report; the last reads English."""
    for number, path in enumerate(SCANS):
        hu = chest(number)
        if number == 2:
            hu = hu.astype(np.int32)
            hu[0, 0, 0] = 70_000
        ct(tmp_path / path, number, hu)
        (tmp_path / path.replace(".nii.gz", ".json")).write_text("{}")
    for number, path in enumerate(FILMS):
        film(tmp_path / path, number)
    rows(
        tmp_path / "derivatives/labels/labels_covid19_posi.tsv",
        HEADER,
        f"sub-S03044\tses-E06147\t{SPANISH.format('izquierdo')}\t['pneumonia', 'COVID 19']\t[]",
        f"sub-S03045\tses-E06148\t{SPANISH.format('derecho')}\t['unchanged']\t[]",
        "sub-S03048\tses-E06151\tThere is no effusion in the left lung and the heart is normal.\t['normal']\t[]",
        f"sub-S03044\tses-E07985\t{SPANISH.format('derecho')}\tnormal, cardiomegaly\t[]",
        f"sub-S09999\tses-E09999\t{SPANISH.format('derecho')}\t['normal']\t[]",
    )
    rows(tmp_path / "participants.tsv", "participant\tmodality_dicom", "derivatives\t", "sub-S03044\t['CT', 'DX']")
    return tmp_path


def test_cts_with_spanish_reports(tree, build):
    made = build("bimcv_covid19", tree, labels="pneumonia,normal")
    by_id = {key: one for split in made.records.values() for key, one in split.items()}
    assert len(by_id) == 3
    patients = sorted(one["patient"] for one in by_id.values())
    assert patients == ["sub-S03044", "sub-S03044", "sub-S03045"]
    of = {one["patient"]: one for one in by_id.values()}
    assert of["sub-S03044"]["report"] == SPANISH.format("izquierdo")
    assert of["sub-S03044"]["labels"].tolist() == [1, 0]
    assert all(one["study"].startswith("ses-") and "view" not in one for one in by_id.values())
    assert all(map(math.isnan, of["sub-S03045"]["labels"])), "unchanged"
    assert of["sub-S03045"]["volume"].max() <= 3071
    assert made.contract["notes"]["metal_clipped"] == 1
    assert [(one["path"], one["reason"].partition(":")[0]) for one in made.rejected] == [(SCANS[5], "wrong_language")]
    for line in (
        "reports 5 -",
        "sessions with a chest CT 4 7,918 CT studies in iterations 1 to 3",
        "CTs of other parts of the body 1",
        "pictures of sessions without a report 1",
        "reports without a picture 2",
        "language es 3",
        "language en 1",
    ):
        assert made.counted(line), line


def test_films_and_any_language(tree, build):
    made = build("bimcv_covid19", tree, {"foreign": "keep"}, modality="ct,xray", labels="cardiomegaly")
    assert made.contract["splits"].keys() == {"xray", "ct"}
    assert sum(made.splits().values()) == 5
    [film_record] = [one for split in made.records.values() for one in split.values() if "image" in one]
    assert film_record["labels"].tolist() == [1], "labels parted by commas"
    assert film_record["view"] in ("pa", "ap")
    assert made.counted("films that are not frontal, or of unknown view 1")


FILM = "sub-S03044/ses-E07985/mod-rx/sub-S03044_ses-E07985_run-1_bp-chest_vp-ap_dx.png"
CURVE = np.rint(4095 * (np.arange(4096) / 4095) ** 0.5).astype(int)  # a VOI LUT


def lut(data):
    return {"00283010": {"vr": "SQ", "Value": [{"00283002": {"vr": "US", "Value": [4096, 0, 12]}, "00283006": data}]}}


def x_ray(made):
    [record] = [one for split in made.records.values() for one in split.values() if "image" in one]
    return record["image"].astype(int)


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ({"00281050": {"vr": "DS", "Value": [2048]}, "00281051": {"vr": "DS", "Value": ["4096"]}}, np.arange(4096)),
        (lut({"vr": "US", "Value": CURVE.tolist()}), CURVE),
        (lut({"vr": "OW", "InlineBinary": base64.b64encode(CURVE.astype("<u2").tobytes()).decode()}), CURVE),
    ],
)
@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_films_are_shown_by_the_header_beside_them(tree, build, header, shown, polarity):
    """PNGs hold what the PACS stored: of a MONOCHROME1 film a negative (suinleelab/cxr_covid inverts it, too)."""
    stored = np.linspace(0, 4095, 256 * 256).astype(np.uint16).reshape(256, 256)
    assert cv2.imwrite(str(tree / FILM), stored)
    polarity_and_name = {"00280004": {"vr": "CS", "Value": [polarity]}, "00100010": {"vr": "PN", "Value": ["Smith"]}}
    (tree / FILM).with_suffix(".json").write_text(json.dumps(header | polarity_and_name))
    made = build("bimcv_covid19", tree, modality="xray")
    greys = shown[stored] / 4095 * 255
    np.testing.assert_allclose(x_ray(made), greys if polarity == "MONOCHROME2" else 255 - greys, atol=1)
    assert "the polarity in the .json beside" in made.contract["source"]["greys"]
    assert made.counted("X-rays without a .json, of unknown polarity 0 -")


def test_a_film_without_its_header_is_counted_and_one_with_a_damaged_header_left_out(tree, build):
    made = build("bimcv_covid19", tree, modality="xray")
    plain = x_ray(made)
    assert made.counted("X-rays without a .json, of unknown polarity 1 -")
    header = (tree / FILM).with_suffix(".json")
    header.write_text('{"00280004": {"vr": "CS", "Value": ["RGB"]}}')
    np.testing.assert_array_equal(x_ray(build("bimcv_covid19", tree, modality="xray")), plain)
    film(tree / FILM.replace("run-1", "run-3"), 5)
    header.write_text('{"00100010": "Smith"')
    made = build("bimcv_covid19", tree, modality="xray")
    reason = "dicom_damaged: the JSON of the header beside the X-ray cannot be read"
    assert [(one["path"], one["reason"]) for one in made.rejected] == [(FILM, reason)]


def test_the_other_names_of_the_table(tree, build):
    folder = tree / "derivatives/labels"
    (folder / "labels_covid19_posi.tsv").rename(folder / "Labels_covid_NEG_JAN21.tsv")
    assert sum(build("bimcv_covid19", tree).splits().values()) == 3
    (folder / "Labels_covid_NEG_JAN21.tsv").rename(folder / "labels.tsv")
    with pytest.raises(UserError, match=r"has no derivatives/labels/labels_covid19_posi\.tsv or .* \(there is labels"):
        build("bimcv_covid19", tree)
    with pytest.raises(UserError, match=r"config\.options\.modality is 'mr'"):
        build("bimcv_covid19", tree, modality="mr")


@pytest.mark.parametrize("merged", [False, True])
def test_archives_in_folders_of_their_own(tree, build, merged):
    """The head in one folder; subjects each in its archive's folder, or all in the cohort's."""
    whole = build("bimcv_covid19", tree)
    cohort = tree / "covid19_posi"
    head = cohort if merged else tree / "bimcv_covid19_posi_head_iter1"
    head.mkdir()
    (tree / "derivatives").rename(head / "derivatives")
    for number, subject in enumerate(sorted(tree.glob("sub-*"))):
        place = cohort if merged else cohort / f"bimcv_covid19_posi_subjects_{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        subject.rename(place / subject.name)
    made = build("bimcv_covid19", tree)
    assert made.splits() == whole.splits()
    assert [one["reason"] for one in made.rejected] == [one["reason"] for one in whole.rejected]


def test_one_series_a_session(tree, build):
    """The session has a thick and a thin series: 12 and 24 slices."""
    ct(tree / SCANS[0], 0, chest(0, (24, 24, 24)))
    spacing = {}
    for series, count in (("all", 3), ("first", 2), ("largest", 2)):
        made = build("bimcv_covid19", tree, series=series)
        every = [one for part in made.records.values() for one in part.values() if one["patient"] == "sub-S03044"]
        spacing[series] = sorted(float(one["spacing_mm"][0]) for one in every)
        assert sum(made.splits().values()) == count
        assert made.counted("further pictures of a session 1") == (series != "all")
    thick, thin = spacing["all"]  # of the record: the scan's length over 32
    assert thin == 2 * thick
    assert spacing["first"] == [thick], "acq-2 comes before run-1"
    assert spacing["largest"] == [thin]
    with pytest.raises(UserError, match=r"config\.options\.series is 'some'"):
        build("bimcv_covid19", tree, series="some")
