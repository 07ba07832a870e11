"""MedMNIST's 3D sets (Zenodo 10519652, CC BY 4.0): small volumes of 8-bit greys, several thousand in one file."""

import functools
from pathlib import Path

import numpy as np

from data.manifest.samples import Sample
from data.readers import ct_records, npz
from data.readers.files import BadInput, Note
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

SPLITS = ("train", "val", "test")
CLASSES = {
    "organmnist3d": "liver, kidney-right, kidney-left, femur-right, femur-left, bladder, heart, lung-right, lung-left, "
    "spleen, pancreas",
    "nodulemnist3d": "benign, malignant",
    "adrenalmnist3d": "normal, hyperplasia",
    "fracturemnist3d": "buckle rib fracture, nondisplaced rib fracture, displaced rib fracture",
    "vesselmnist3d": "vessel, aneurysm",
    "synapsemnist3d": "inhibitory synapse, excitatory synapse",
}
SIZES = {
    "organmnist3d": (971, 161, 610),
    "nodulemnist3d": (1158, 165, 310),
    "adrenalmnist3d": (1188, 98, 298),
    "fracturemnist3d": (1027, 103, 240),
    "vesselmnist3d": (1335, 191, 382),
    "synapsemnist3d": (1230, 177, 352),
}
RANGE_HU = (-1000, 1000)  # what the greys 0 and 255 become; nominal, for the volumes hold no Hounsfield units
LAYOUT = "organmnist3d.npz, or organmnist3d_64.npz with config.options.size=64"
EXPECTED = {
    f"{split} volumes of {name}": n for name, sizes in SIZES.items() for split, n in zip(SPLITS, sizes, strict=True)
}


def read(root: Path, *, part: str, size: int) -> DatasetIndex:
    """The volumes of one set, `part`, by official split. They name no patients: each counts as one."""
    dataset_index.check_option("part", part, CLASSES)
    path = dataset_index.find(root, f"{part}.npz" if size == 28 else f"{part}_{size}.npz")
    classes = dataset_index.words(CLASSES[part])
    items, counts = [], {}
    for split in SPLITS:
        numbers = npz.read_array(path, f"{split}_labels", 2)[:, 0].tolist()
        counts[f"{split} volumes of {part}"] = len(numbers)
        for at, number in enumerate(numbers):
            labels = tuple(float(number == known) for known in range(len(classes)))
            member = f"{split}/{at}"
            items.append(Item(path.name, "ct", member, split, labels=labels, member=member, annotation=(split, at)))
    facts = {"hounsfield": False, "greys": f"0 to 255 run to {RANGE_HU} linearly", "spacing": "unknown"}
    published = dict(zip(SPLITS, SIZES[part], strict=True))
    return DatasetIndex(items, classes, counts, {}, published, volume, facts=facts)


def volume(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """One volume of the file, its axes as they come: the set does not say how they lie. Raises BadInput."""
    split, at = sample.annotation
    greys = _volumes(sample.file, split)[at]
    if greys.min() == greys.max():
        raise BadInput("constant_volume", "every voxel has the same value")
    low, high = RANGE_HU
    hu = low + greys.astype(np.float32) * ((high - low) / 255)
    fields = ct_records.of_array(hu, None, grid)
    return fields | {"volume": np.maximum(fields["volume"], low)}


@functools.lru_cache(maxsize=1)
def _volumes(path: Path, split: str) -> np.ndarray:
    """All volumes of a split (n, z, y, x): they are packed as one."""
    return npz.read_array(path, f"{split}_images", 4)
