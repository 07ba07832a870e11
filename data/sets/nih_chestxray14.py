"""NIH ChestX-ray14: frontal X-rays with 14 findings read out of reports, official test list."""

import collections
from pathlib import Path

from data.manifest import samples
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

LABELS = dataset_index.words(
    "Atelectasis, Cardiomegaly, Effusion, Infiltration, Mass, Nodule, Pneumonia, Pneumothorax, Consolidation, Edema, "
    "Emphysema, Fibrosis, Pleural_Thickening, Hernia"
)
NONE = "No Finding"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
PICTURES = ("*.png", "images/*.png", "images_*/*.png", "images_*/images/*.png")
LAYOUT = (
    "Data_Entry_2017[_v2020].csv, train_val_list.txt, test_list.txt and images/00000001_000.png or images_001/images/"
)
EXPECTED = {
    "films": 112_120,
    "patients": 30_805,
    "films of train_val_list.txt": 86_524,
    "films of test_list.txt": 25_596,
}


def read(root: Path, *, views: str, val_share: float) -> DatasetIndex:
    """X-rays of `views` (PA, AP); the official test list, and val a share of the other patients."""
    shown = set(dataset_index.words(views.upper()))
    lists = {split: dataset_index.find(root, name) for split, name in LISTS.items()}
    names = {split: set(path.read_text(encoding="utf-8").split()) for split, path in lists.items()}
    files = {path.name: path for pattern in PICTURES[::-1] for path in root.glob(pattern)}
    items, left_out, patients = [], collections.Counter(), set()
    rows = dataset_index.table(root, TABLES, ("Image Index", "Finding Labels", "Patient ID", "View Position"))
    for row in rows:
        name, patient = row["Image Index"], row["Patient ID"]
        patients.add(patient)
        findings = set(row["Finding Labels"].split("|"))
        if unknown := findings - {*LABELS, NONE}:
            raise ValueError(f"{len(unknown)} findings that the set does not have")
        split = next((split for split, listed in names.items() if name in listed), "")
        if row["View Position"].upper() not in shown:
            left_out[f"films of other views than {views}"] += 1
        elif not split:
            left_out["films in neither list"] += 1
        elif name not in files:
            left_out["films that are not in the tree"] += 1
        else:
            side = "val" if split == "train" and samples.share_of(patient) < val_share else split
            labels = tuple(float(label in findings) for label in LABELS)
            items.append(Item(str(files[name].relative_to(root)), "xray", patient, side, labels=labels))
    counts = {"films": len(rows), "patients": len(patients)}
    counts |= {f"films of {LISTS[split]}": len(listed) for split, listed in names.items()}
    return DatasetIndex(items, LABELS, counts, left_out)
