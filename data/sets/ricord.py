"""MIDRC-RICORD 1A and 1B (TCIA): chest CTs of patients with and without COVID-19."""

import collections
from pathlib import Path

from data.errors import UserError
from data.readers import volumes
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

COHORTS = {"MIDRC-RICORD-1A": 1.0, "MIDRC-RICORD-1B": 0.0}
LISTS = ("train", "val", "test")  # UniMiSS: lines "relative/path.nii.gz label", in train.txt or RICORD_train.txt
LAYOUT = "manifest-*/MIDRC-RICORD-1A/<patient>/<study>/<series>/*.dcm and the same of 1B, in one manifest-* or two"
EXPECTED = {
    "patients of MIDRC-RICORD-1A": "120 studies",
    "series of MIDRC-RICORD-1A": "155, as amid counts",
    "train scans listed": 194,
    "val scans listed": 52,
    "test scans listed": 84,
}


def read(root: Path, *, lists: str) -> DatasetIndex:
    """Every CT series of the DICOM download, split by patient; with `lists` the NIfTI scans of UniMiSS's three lists.

    `lists` is a folder with [RICORD_]train.txt, val.txt and test.txt. They split by scan: a patient may be in two.
    """
    if lists:
        return _listed(Path(lists).expanduser())
    items, counts, left_out = [], collections.Counter(), collections.Counter()
    bases = [root, *dataset_index.folders(root, "manifest-*")]  # TCIA gives each download a manifest of its own
    for cohort, value in COHORTS.items():
        patients = set()
        places = [path / cohort for path in bases if (path / cohort).is_dir()]
        places = places or [dataset_index.find(bases[-1], cohort)]
        for folder in (folder for place in places for folder in sorted(place.glob("*/*/*"))):
            slices = sum(path.suffix == ".dcm" for path in folder.iterdir()) if folder.is_dir() else 0
            if slices < volumes.MIN_SLICES:
                left_out[f"series of fewer than {volumes.MIN_SLICES} slices"] += 1
                continue
            patient = folder.parts[-3]
            patients.add(patient)
            counts[f"series of {cohort}"] += 1
            items.append(Item(str(folder.relative_to(root)), "ct", patient, labels=(value,)))
        counts[f"patients of {cohort}"] = len(patients)
    return DatasetIndex(items, ("COVID-19",), counts, left_out)


def _listed(folder: Path) -> DatasetIndex:
    items, counts = [], {}
    for split in LISTS:
        path = dataset_index.find(folder, f"{split}.txt", f"RICORD_{split}.txt")
        lines = [line.rsplit(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any(len(line) != 2 or line[1] not in ("0", "1") for line in lines):
            raise UserError(f"{path} has lines that are not `relative/path label`, the label 0 or 1")
        counts[f"{split} scans listed"] = len(lines)
        # Names such as ID419639-001155_date05-14-2008_605.000000-COR-3X3-96061.nii.gz begin with the patient.
        items += [
            Item(name, "ct", Path(name).name.partition("_")[0], split, labels=(float(label),)) for name, label in lines
        ]
    return DatasetIndex(items, ("COVID-19",), counts, leaks=True)
