"""LUNA25 (Zenodo 14223624, 14673658): low-dose chest CTs of the NLST with nodules, malignant or not."""

import collections
from pathlib import Path

from data.errors import UserError
from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

TABLE = "LUNA25_Public_Training_Development_Data.csv"
PLACE = ("CoordX", "CoordY", "CoordZ")
FOLDERS = ("luna25_images", "images", ".")
SUFFIXES = (".mha", ".mhd", ".nii.gz")
LAYOUT = f"{TABLE} and luna25_images/<SeriesInstanceUID>.mha"
EXPECTED = {"CTs": 4_069, "patients": 2_120, "nodules": 6_163, "malignant nodules": 555}


def read(root: Path, *, diameter_mm: float) -> DatasetIndex:
    """The CTs that are there; splits by patient. A CT's label says whether any of its nodules is malignant.

    The table has no sizes. With a `diameter_mm` each nodule is a box and a ball of that size in `lesion_mask`.
    """
    if diameter_mm < 0:
        raise UserError(f"config.options.diameter_mm is {diameter_mm}: millimetres, or 0 for no mask")
    rows = dataset_index.table(root, TABLE, ("PatientID", "SeriesInstanceUID", "label", *PLACE))
    nodules: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
    patient_of, malignant = {}, collections.Counter()
    for row in rows:
        scan = row["SeriesInstanceUID"]
        patient_of[scan] = row["PatientID"]
        nodules[scan].append((*(float(row[name]) for name in PLACE), diameter_mm))
        malignant[scan] += int(float(row["label"]) > 0)
    files = {
        path.name.removesuffix(suffix): path
        for folder in FOLDERS[::-1]
        for suffix in SUFFIXES[::-1]
        for path in sorted((root / folder).glob(f"*{suffix}"))
    }
    items, left_out = [], collections.Counter()
    for scan in sorted(nodules):
        if scan not in files:
            left_out["CTs that are not in the tree"] += 1
            continue
        inside = tuple(nodules[scan]) if diameter_mm else None
        path, labels = str(files[scan].relative_to(root)), (float(malignant[scan] > 0),)
        items.append(Item(path, "ct", patient_of[scan], labels=labels, annotation=inside))
    counts = {"CTs": len(nodules), "patients": len(set(patient_of.values())), "nodules": len(rows)}
    counts["malignant nodules"] = sum(malignant.values())
    marked = {"read": annotations.volume_with_nodules, "annotations": ("boxes", "lesion_mask")} if diameter_mm else {}
    return DatasetIndex(items, ("Malignant nodule",), counts, left_out, **marked)
