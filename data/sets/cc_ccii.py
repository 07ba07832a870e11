"""CC-CCII, or the cleaned copy of HKBU: CTs as 8-bit slices with COVID-19, other pneumonia or none."""

import collections
import functools
import json
from pathlib import Path

import cv2
import numpy as np

from data.manifest.samples import Sample
from data.readers import ct_records
from data.readers.files import BadInput, Note, read_bytes
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

CLASSES = ("CP", "NCP", "Normal")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif")
MIN_SLICES = 4
RANGE_HU = (-1000, 1000)  # what the greys 0 and 255 become; nominal, for the slices hold no Hounsfield units
FOLD, FOLD_PARTS = "CC_CCII_fold{fold}_{part}.csv", {"train": "train", "valid": "test"}
Scan = tuple[str, str, str, str, list[str]]  # split, class, patient, scan, slices in order
LISTS = {"train": "ct_train.json", "test": "ct_test.json"}
PUBLISHED = {"train": 3_195, "test": 798}
LAYOUT = "<CP|NCP|Normal>/<patient>/<scan>/0000.png, or the scans of config.options.lists"
EXPECTED = {
    "train scans of CP": 1_210,
    "train scans of NCP": 1_213,
    "train scans of Normal": 772,
    "test scans of CP": 303,
    "test scans of NCP": 302,
    "test scans of Normal": 193,
}


def read(root: Path, *, lists: str, fold: int = 0, first_slice: str) -> DatasetIndex:
    """Every scan; `lists` is the folder of HKBU's ct_train.json and ct_test.json, or of VoCo's three folds.

    Without lists patients are split by a hash. VoCo's folds have a train and a valid list, the latter to test on.

    `first_slice` is the end at which a scan begins, "superior" or "inferior": the slices do not tell.
    """
    dataset_index.check_option("first_slice", first_slice, ("superior", "inferior"))
    counts, left_out = collections.Counter(), collections.Counter()
    items = []
    folder = Path(lists).expanduser()
    folds = bool(lists) and (folder / FOLD.format(fold=fold, part="train")).exists()
    scans = _listed(folder) if lists and not folds else _walked(root)
    scans = _fold(folder, fold, scans, left_out) if folds else scans
    for split, kind, patient, scan, names in scans:
        counts[f"{split} scans of {kind}" if split else f"scans of {kind}"] += 1
        if len(names) < MIN_SLICES:
            left_out[f"scans of fewer than {MIN_SLICES} slices"] += 1
            continue
        labels = tuple(float(kind == known) for known in CLASSES)
        path = f"{kind}/{patient}/{scan}"
        items.append(Item(path, "ct", f"{kind}/{patient}", split, labels=labels, annotation=tuple(names)))
    greys = f"0 to 255 run to {RANGE_HU} linearly"
    facts = {"hounsfield": False, "greys": greys, "spacing": "unknown", "first": first_slice}
    pixels = functools.partial(slices, superior_first=first_slice == "superior")
    published = PUBLISHED if lists and not folds else {}
    return DatasetIndex(items, CLASSES, counts, left_out, published, pixels, facts=facts)


def slices(sample: Sample, modality: str, note: Note, grid: RecordGrid, *, superior_first: bool) -> Example:
    """The named slices of a folder as a volume; its spacing is unknown, NaN. Raises BadInput."""
    greys = []
    for name in sample.annotation:
        picture = cv2.imdecode(np.frombuffer(read_bytes(sample.file / name), np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise BadInput("truncated", "a slice cannot be decoded")
        if greys and picture.shape != greys[0].shape:
            raise BadInput("mixed_size", "the slices differ in rows or columns")
        greys.append(picture)
    volume = np.stack(greys[::-1] if superior_first else greys).astype(np.float32)
    if volume.min() == volume.max():
        raise BadInput("constant_volume", "every voxel has the same value")
    low, high = RANGE_HU
    fields = ct_records.of_array(low + volume * ((high - low) / 255), None, grid)
    return fields | {"volume": np.maximum(fields["volume"], low)}


def _listed(folder: Path) -> list[Scan]:
    """(split, class, patient, scan, slices in order) of HKBU's lists: {class: {patient: {scan: [slice, ...]}}}."""
    trees = {split: json.loads(dataset_index.find(folder, name).read_text("utf-8")) for split, name in LISTS.items()}
    return [
        (split, kind, patient, scan, names)
        for split, tree in trees.items()
        for kind, patients in tree.items()
        for patient, scans in patients.items()
        for scan, names in scans.items()
    ]


def _fold(folder: Path, fold: int, walked: list[Scan], left_out: collections.Counter) -> list[Scan]:
    """The scans of a fold of VoCo's, which names patient and scan; their class is that of the tree."""
    places = {scan[2:4]: scan for scan in walked}
    scans = []
    for part, split in FOLD_PARTS.items():
        rows = dataset_index.table(folder, FOLD.format(fold=fold, part=part), ("patient_id", "scan_id"))
        named = [(row["patient_id"], row["scan_id"]) for row in rows]
        left_out["listed scans that are not in the tree"] += sum(name not in places for name in named)
        scans += [(split, *places[name][1:]) for name in named if name in places]
    return scans


def _walked(root: Path) -> list[Scan]:
    folders = [folder for kind in CLASSES for folder in dataset_index.find(root, kind).glob("*/*")]
    return [("", *folder.parts[-3:], _slices(folder)) for folder in sorted(folders) if folder.is_dir()]


def _slices(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    return sorted(names, key=lambda name: (len(name), name))
