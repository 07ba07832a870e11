"""CT-RATE on a tree of its layout: both reports, labels, reconstructions, and numbers rescaled once at most."""

import shutil

import nibabel
import numpy as np
import pytest

from data.errors import UserError
from data.sets import ct_rate
from data.sets.ct_rate import LABELS
from tests.data.sets.conftest import chest, ct, rows

VOLUMES = ("train_1_a_1", "train_1_a_2", "train_1_b_1", "train_2_a_1", "train_3_a_1", "train_4_a_1", "valid_1_a_1")
FINDINGS = "The trachea is in the midline and both main bronchi of case {} are open. No effusion was seen."


def volume_path(name, folder):
    return f"dataset/{folder}/{'_'.join(name.split('_')[:2])}/{'_'.join(name.split('_')[:3])}/{name}.nii.gz"


@pytest.fixture
def tree(tmp_path):
    """`tree(folder, voxels)`: the release under `dataset/`; `voxels` replaces some volumes' numbers."""

    def make(end="", voxels=None):
        root = tmp_path / "CT-RATE" / "dataset"
        for number, name in enumerate(VOLUMES):
            if name != "train_3_a_1":
                ct(root.parent / volume_path(name, name.partition("_")[0] + end), number, (voxels or {}).get(name))
        for part, table in (("train", "train"), ("valid", "validation")):
            names = [f"{name}.nii.gz" for name in VOLUMES if name.startswith(part)]
            lines = [f'{name},cough,CT,"{FINDINGS.format(name[:-7])}",Normal CT of the chest.' for name in names]
            lines[0] = f'{names[0]},,,"{FINDINGS.format(1)}",'
            header = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN"
            rows(root / f"radiology_text_reports/{table}_reports.csv", header, *lines)
            meta = [f"{name},SIEMENS,1.0,-1024,[0.7 0.7],1.5" for name in names]
            header = "VolumeName,Manufacturer,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing"
            rows(root / f"metadata/{table}_metadata.csv", header, *meta)
            labels = [f"{name},{','.join('1' if k == 2 else '0' for k in range(18))}" for name in names]
            header = "VolumeName," + ",".join(LABELS)
            rows(root / f"multi_abnormality_labels/{part}_predicted_labels.csv", header, *labels)
        rows(root / "metadata/no_chest_train.txt", "train_4/train_4_a/train_4_a_1.nii.gz")
        return root.parent

    return make


def test_the_whole_set(tree, build):
    made = build("ct_rate", tree("_fixed"), val_share=0.0)
    assert made.splits() == {"train": 4, "test": 1}
    one = made.record(volume_path("train_1_a_2", "train_fixed"), "train")
    assert one["report"] == "Normal CT of the chest. " + FINDINGS.format("train_1_a_2")
    assert one["patient"] == "train_1"
    assert (one["study"], one["series"]) == ("train_1_a", "train_1_a_2")
    assert one["labels"].tolist() == [float(k == 2) for k in range(18)]
    assert one["volume"].min() < -980
    for line in (
        "patients 5 21,304 DIFFERS",
        "scans 6 25,692 DIFFERS",
        "volumes 7 50,188 DIFFERS",
        "volumes that are not in the tree 1",
        "volumes of other parts of the body (no_chest) 1",
        "with findings 5",
        "with impression 3",
        "language en 5",
    ):
        assert made.counted(line), line


def test_one_reconstruction_a_scan_and_a_share_for_validation(tree, build):
    root = tree()
    made = build("ct_rate", root, reconstructions="first", val_share=0.1)
    assert sum(made.splits().values()) == 4
    assert made.counted("further reconstructions 1")
    sides = {split: {one["patient"] for one in by_id.values()} for split, by_id in made.records.items()}
    assert sides == {"train": {"train_2"}, "val": {"train_1"}, "test": {"valid_1"}}, "shares 0.496 and 0.025"


def test_the_first_release_is_rescaled_by_its_table_and_a_later_one_is_not(tree, build):
    """Stored numbers are HU + 1024 in one volume, HU in another, HU - 1024 (rescaled twice) in a third."""
    hu = chest(0)
    spoilt = {
        "train_1_a_1": (hu + 1024).astype(np.int16),
        "train_1_a_2": hu,
        "train_1_b_1": (hu - 1024).astype(np.int16),
    }
    made = build("ct_rate", tree(voxels=spoilt), val_share=0.0)
    raw, fixed = (made.record(volume_path(name, "train"), "train")["volume"] for name in ("train_1_a_1", "train_1_a_2"))
    np.testing.assert_array_equal(raw, fixed)
    assert made.contract["notes"]["rescaled_by_table"] == 1
    reasons = [one["reason"].partition(":")[0] for one in made.rejected]
    assert reasons == ["double_rescale"]


PLACE = (-120.5, -90.0, -300.0)  # mm, of the first voxel in LPS
TRUE = np.array([[-0.7, 0, 0, 120.5], [0, -0.7, 0, 90], [0, 0, 1.5, -300], [0, 0, 0, 1]])  # as NIfTI has it, in RAS
AXIAL, PRONE = "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]", "[-1.0, 0.0, 0.0, 0.0, -1.0, 0.0]"
CORONAL, TILTED = "[1, 0, 0, 0, 0, -1]", "[1, 0, 0, 0, 0.94, -0.34]"


def lying(root, affine, orientation, codes=1, folder="train"):
    """The first volume of a tree with another header, and its row of the table with how it lies; no other part."""
    shutil.rmtree(root / "dataset/valid", ignore_errors=True)
    hu = chest(0)
    hu[4:9, 4:7, 2:4] = 900  # in a corner, so that every turn shows
    image = nibabel.Nifti1Image(hu, affine)
    image.set_sform(affine, codes)
    image.set_qform(affine, codes)
    nibabel.save(image, root / volume_path("train_1_a_1", folder))
    cell = f'1.0,-1024,"[0.7, 0.7]",1.5,"{orientation}","{list(PLACE)}"'
    header = f"VolumeName,RescaleSlope,RescaleIntercept,{','.join(ct_rate.GEOMETRY)}"
    rows(root / "dataset/metadata/train_metadata.csv", header, f"train_1_a_1.nii.gz,{cell}")


def first(root, build, folder="train"):
    """Its record, and what was noted."""
    made = build("ct_rate", root, val_share=0.0, spacing_mm=(1.5, 1.0, 1.0))
    return made.record(volume_path("train_1_a_1", folder), "train"), made.contract["notes"]


@pytest.mark.parametrize("codes", [1, 0])
def test_headers_that_were_never_filled_in_get_the_geometry_of_the_table(tree, build, codes):
    """The first release's: converted by way of arrays, with spacing, axes and place in the table alone.

    Hugging Face ibrahimhamamci/CT-RATE, discussion 58; the set's own download_scripts/fix_metadata.py fills them in.
    """
    root = tree()
    lying(root, TRUE, AXIAL)
    right, notes = first(root, build)
    assert "geometry_by_table" not in notes, "filled in, as by the set's script"
    np.testing.assert_allclose(right["original_affine"], np.diag([-1, -1, 1, 1]) @ TRUE, atol=1e-4)
    lying(root, np.eye(4), AXIAL, codes)
    blank, notes = first(root, build)
    assert notes["geometry_by_table"] == 1
    for name in ("volume", "spacing_mm", "original_affine"):
        np.testing.assert_allclose(blank[name], right[name], atol=1e-4)
    lying(root, np.eye(4), PRONE, codes)
    turned = first(root, build)[0]["volume"][:, ::-1, ::-1]
    np.testing.assert_allclose(turned, right["volume"], atol=1)  # rounded from the other side


def test_headers_are_believed_where_they_have_the_table_s_spacing_and_a_place(tree, build):
    """A reader may have stored other axes, with the voxels turned; the later release has its own headers."""
    turned = TRUE @ np.diag([-1, -1, 1, 1])
    root = tree()
    for orientation in (AXIAL, CORONAL, TILTED, ""):
        lying(root, turned, orientation)
        one, notes = first(root, build)
        assert "geometry_by_table" not in notes
        np.testing.assert_allclose(one["original_affine"], np.diag([-1, -1, 1, 1]) @ turned, atol=1e-4)
    root = tree("_fixed")
    lying(root, np.eye(4), AXIAL, folder="train_fixed")
    assert "geometry_by_table" not in first(root, build, "train_fixed")[1]


def test_what_header_and_table_do_not_tell_together_is_refused(tree, build):
    root = tree()
    for orientation in (CORONAL, TILTED):
        lying(root, np.eye(4), orientation)
        made = build("ct_rate", root, val_share=0.0)
        assert [one["reason"].partition(":")[0] for one in made.rejected] == ["no_geometry"]
    lying(root, np.eye(4), "")
    one, notes = first(root, build)
    assert notes["geometry_by_table"] == 1, "a table without axes gives the spacing, the header the axes"
    np.testing.assert_allclose(
        one["original_affine"],
        np.array([[-0.7, 0, 0, -120.5], [0, -0.7, 0, -90], [0, 0, 1.5, -300], [0, 0, 0, 1]]),
        atol=1e-4,
    )


def test_a_tree_without_metadata(tree, build):
    root = tree()
    (root / "dataset/metadata/train_metadata.csv").unlink()
    with pytest.raises(UserError, match=r"has no metadata/train_metadata\.csv"):
        build("ct_rate", root)


def test_the_valid_part_alone(tree, build):
    """As downloaded for zero-shot evaluation: neither the other part's volumes and tables nor metadata."""
    root = tree("_fixed")
    shutil.rmtree(root / "dataset/train_fixed")
    shutil.rmtree(root / "dataset/metadata")
    for table in root.rglob("train_*.csv"):
        table.unlink()
    made = build("ct_rate", root)
    assert made.splits() == {"test": 1}
    assert made.record(volume_path("valid_1_a_1", "valid_fixed"), "test")["labels"].tolist()[2] == 1


def test_volumes_in_one_flat_folder(tree, build):
    root = tree("_fixed")
    for volume in sorted(root.rglob("*.nii.gz")):
        volume.rename(
            root / "dataset" / volume.name if "valid" in volume.name else root / "dataset/train_fixed" / volume.name
        )
    made = build("ct_rate", root, val_share=0.0)
    assert made.splits() == {"train": 4, "test": 1}
    assert made.record("dataset/train_fixed/train_2_a_1.nii.gz", "train")["patient"] == "train_2"
    assert made.record("dataset/valid_1_a_1.nii.gz", "test")["patient"] == "valid_1"


def test_a_part_of_the_later_release_beside_the_whole_first_one(tree, build):
    """One volume was fetched again; the others still come from `train`, and the counts say how many from each."""
    hu = chest(3)
    root = tree(voxels={name: (hu + 1024).astype(np.int16) for name in VOLUMES})
    ct(root / volume_path("train_2_a_1", "train_fixed"), 0, hu)
    made = build("ct_rate", root, val_share=0.0)
    assert made.splits() == {"train": 4, "test": 1}
    again = made.record(volume_path("train_2_a_1", "train_fixed"), "train")
    np.testing.assert_array_equal(again["volume"], made.record(volume_path("train_1_a_1", "train"), "train")["volume"])
    assert made.contract["notes"]["rescaled_by_table"] == 4
    for line in ("volumes taken from train_fixed 1 -", "volumes taken from train 3 -", "volumes taken from valid 1 -"):
        assert made.counted(line), line


def test_not_given_is_no_caption(tree, build):
    root = tree("_fixed")
    table = root / "dataset/radiology_text_reports/train_reports.csv"
    table.write_text(table.read_text().replace("Normal CT of the chest.", "Not given."))
    made = build("ct_rate", root, val_share=0.0)
    one = made.record(volume_path("train_1_a_2", "train_fixed"), "train")
    assert one["report"] == FINDINGS.format("train_1_a_2")
    assert "with impression" not in made.printed


def test_a_tree_without_volumes_says_where_it_looked(tree, build):
    root = tree("_fixed")
    for part in ("train", "valid"):
        (root / f"dataset/{part}_fixed").rename(root / f"dataset/{part}_preprocessed")
    with pytest.raises(UserError, match=r"has no volumes: looked below it for .*train_fixed/train_1"):
        build("ct_rate", root)
