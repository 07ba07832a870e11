"""RSNA Pneumonia (Kaggle, stage 2): pneumonia, boxes, and their union as a mask; MGCA's splits."""

import collections
import functools
from pathlib import Path

from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

LAYOUT = "stage_2_train_labels.csv and stage_2_train_images/<patientId>.dcm"
EXPECTED = {"patients": 26_684, "with pneumonia": 6_012, "without": 20_672, "rows": 30_227, "boxes": 9_555}
SPLITS = {"detection": 5337 * 2, "classification": 0.3}  # what is not for training
PUBLISHED = {
    "detection": {"train": 16_010, "val": 5_337, "test": 5_337},
    "classification": {"train": 18_678, "val": 4_003, "test": 4_003},
}


def read(root: Path, *, split: str, greys: str = "window") -> DatasetIndex:
    """Every labelled X-ray; `split` "detection" is also that of segmentation (16,010, 5,337 and 5,337 X-rays).

    `greys` is "window", as of every X-ray, or "largest": stored values over the largest of them, as MGCA reads DICOM.
    """
    dataset_index.check_option("greys", greys, ("window", "largest"))
    dataset_index.check_option("split", split, SPLITS)
    rows = dataset_index.table(root, "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"))
    folder = dataset_index.find(root, "stage_2_train_images").name
    boxes: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
    for row in rows:
        boxes[row["patientId"]] += [_corners(row)] if row["Target"] == "1" else []
    patients = sorted(boxes)
    splits = dataset_index.split_in_three(patients, SPLITS[split])
    items = []
    for patient in splits:  # in the order of MGCA's lists, which its draws of 1 and 10 % depend on
        path, inside = f"{folder}/{patient}.dcm", tuple(boxes[patient])
        items.append(Item(path, "xray", patient, splits[patient], labels=(float(bool(inside)),), annotation=inside))
    positive = sum(map(bool, boxes.values()))
    counts = {"patients": len(patients), "with pneumonia": positive, "without": len(patients) - positive}
    counts |= {"rows": len(rows), "boxes": sum(map(len, boxes.values()))}
    pixels = functools.partial(annotations.xray_with_boxes, by_largest=greys == "largest")
    return DatasetIndex(items, ("Pneumonia",), counts, {}, PUBLISHED[split], pixels, ("boxes",))


def _corners(row: dict[str, str]) -> tuple[float, ...]:
    x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height
