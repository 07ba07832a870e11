"""MIDRC-RICORD on a tree of TCIA's layout: series in folders, padding far below air, UniMiSS's lists."""

import numpy as np
import pydicom
import pytest

from data.errors import UserError
from tests import dicoms
from tests.data.sets.conftest import chest, ct

SERIES = (
    "manifest-1608266677008/{cohort}/{cohort}-{patient}/08-02-2002-NA-CT CHEST WITHOUT CONTRAST-04614/"
    "{number}.000000-AXIAL-26970"
)


def series(folder, seed, slices=8):
    """A series of `slices` files in a random order of names, its corners padded with -3024."""
    folder.mkdir(parents=True)
    hu = chest(seed, (32, 32, slices))
    hu[:3, :3] = -3024
    names = np.random.default_rng(seed).permutation(slices)
    for z in range(slices):
        made = dicoms.dataset(
            np.ascontiguousarray(hu[:, :, z].T),
            Modality="CT",
            SeriesInstanceUID=f"1.2.{seed}",
            PixelSpacing=[1, 1],
            SOPInstanceUID=f"1.2.{seed}.{z}",
            ImagePositionPatient=[0, 0, 2.0 * z],
            InstanceNumber=int(names[z]) + 1,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            RescaleSlope=1,
            RescaleIntercept=0,
            PixelRepresentation=1,
        )
        made.save_as(folder / f"1-{names[z]:03d}.dcm", enforce_file_format=True)


@pytest.fixture
def tree(tmp_path):
    seed = 0
    for cohort, patients in (("MIDRC-RICORD-1A", range(6)), ("MIDRC-RICORD-1B", range(10, 14))):
        for patient in patients:
            for number in (2, 3) if patient == 0 else (2,):
                seed += 1
                name = SERIES.format(cohort=cohort, patient=f"419639-{patient:06d}", number=number)
                series(tmp_path / name, seed, 3 if patient == 13 else 8)
    (tmp_path / "manifest-1608266677008/metadata.csv").write_text("Series UID\n")
    return tmp_path


def test_every_series_of_both_cohorts(tree, build):
    made = build("ricord", tree)
    all_records = [one for split in made.records.values() for one in split.values()]
    assert len(all_records) == 10
    labels = {one["patient"]: one["labels"].tolist() for one in all_records}
    assert labels["MIDRC-RICORD-1A-419639-000000"] == [1]
    assert labels["MIDRC-RICORD-1B-419639-000010"] == [0]
    assert len(labels) == 9, "two series of one patient"
    assert all(one["volume"].min() == -1024 for one in all_records), "padding is air before anything is averaged"
    for line in (
        "series of MIDRC-RICORD-1A 7 155, as amid counts",
        "patients of MIDRC-RICORD-1A 6 120 studies",
        "series of fewer than 4 slices 1",
    ):
        assert made.counted(line), line


def test_unimiss_s_lists(tmp_path, build):
    names = [
        f"RICORD_nii/MIDRC-RICORD-1{'AB'[n % 2]}/ID419639-00000{n // 2}_date05-14-2008_{n}.0-COR.nii.gz"
        for n in range(6)
    ]
    for number, name in enumerate(names):
        ct(tmp_path / name, number)
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, part in (("train", names[:3]), ("val", names[3:4]), ("test", names[4:])):
        (lists / f"{split}.txt").write_text("".join(f"{name} {int('1A' in name)}\n" for name in part))
    made = build("ricord", tmp_path, lists=str(lists))
    assert made.splits() == {"train": 3, "val": 1, "test": 2}
    assert made.counted("train scans listed 3 194 DIFFERS")
    assert made.contract["source"]["patients_in_two_splits"] == 1
    assert made.record(names[0], "train", f"{names[0]} train")["labels"].tolist() == [1]
    (lists / "val.txt").write_text("a.nii.gz two\n")
    with pytest.raises(UserError, match="the label 0 or 1"):
        build("ricord", tmp_path, lists=str(lists))


def test_a_cohort_that_is_not_there(tree, build):
    (tree / "manifest-1608266677008/MIDRC-RICORD-1B").rename(tree / "manifest-1608266677008/MIDRC-RICORD-1b")
    with pytest.raises(UserError, match=r"has no MIDRC-RICORD-1B \(there is MIDRC-RICORD-1"):
        build("ricord", tree)


def test_the_slices_are_real_dicom(tree):
    assert pydicom.dcmread(next(tree.rglob("*.dcm"))).Modality == "CT"


def test_two_downloads_of_tcia_and_slices_that_are_links(tree, build):
    """1A and 1B each under a manifest of its own; in a clone of git-annex each slice is a link."""
    whole = build("ricord", tree)
    manifest = tree / "manifest-1608266677008"
    (tree / "manifest-1612365584013").mkdir()
    (manifest / "MIDRC-RICORD-1B").rename(tree / "manifest-1612365584013/MIDRC-RICORD-1B")
    objects = tree / ".git/annex/objects"
    objects.mkdir(parents=True)
    for number, path in enumerate(sorted(tree.glob("manifest-*/*/*/*/*/*.dcm"))):
        path.rename(objects / f"{number}.dcm")
        path.symlink_to(objects / f"{number}.dcm")
    made = build("ricord", tree)
    assert made.rejected == []
    assert made.splits() == whole.splits()
    patients = [
        sorted(one["patient"] for part in one_set.records.values() for one in part.values())
        for one_set in (made, whole)
    ]
    assert patients[0] == patients[1]


def test_unimiss_s_names_of_its_lists(tmp_path, build):
    for number in range(3):
        ct(tmp_path / f"RICORD_nii/ID419639-00000{number}_date.nii.gz", number)
    for number, split in enumerate(("train", "val", "test")):
        (tmp_path / f"RICORD_{split}.txt").write_text(f"RICORD_nii/ID419639-00000{number}_date.nii.gz {number % 2}\n")
    made = build("ricord", tmp_path, lists=str(tmp_path))
    assert made.splits() == {"train": 1, "val": 1, "test": 1}
