"""COVIDx CXR (Kaggle andyczhao/covidx-cxr2), version 9A: normal, pneumonia, COVID-19."""

import collections
import dataclasses
from pathlib import Path

from data.errors import UserError
from data.manifest import samples
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

CLASSES = {"9A": ("normal", "pneumonia", "COVID-19"), "9B": ("negative", "positive")}
FIELDS = 4  # patient id, file name, class, source
VAL_SHARE = 0.2
PUBLISHED = {"mgca": {"train": 23_988, "val": 5_998, "test": 400}}  # G2D, of another version than these lists
EXPECTED = {
    "train normal": 8_085,
    "train pneumonia": 5_555,
    "train COVID-19": 16_490,
    "train negative": 13_992,
    "train positive": 16_490,
    "test normal": 100,
    "test pneumonia": 100,
    "test COVID-19": 200,
}


def read(root: Path, *, version: str, split: str) -> DatasetIndex:
    """Both lists of a `version`; `split` "clean" holds out a fifth of training patients, "mgca" a fifth of X-rays."""
    dataset_index.check_option("version", version, CLASSES)
    classes = CLASSES[version]
    dataset_index.check_option("split", split, ("clean", "mgca"))
    items: list[Item] = []
    counts: collections.Counter = collections.Counter()
    for side in ("train", "test"):
        path = dataset_index.find(root, f"{side}_COVIDx{version}.txt")
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            fields = line.split()
            if len(fields) != FIELDS:
                raise UserError(f"{path}: {len(fields)} fields in a line, not `patient_id filename class source`")
            patient, name, kind, _ = fields
            if kind not in classes:
                raise UserError(f"{path}: the class {kind!r} is not of {version} ({', '.join(classes)})")
            counts[f"{side} {kind}"] += 1
            labels = tuple(float(kind == known) for known in classes)
            items.append(Item(f"{side}/{name}", "xray", patient, side, labels=labels))
    train, test = ([item for item in items if item.split == side] for side in ("train", "test"))
    if split == "mgca":
        held_out = set(dataset_index.drawn(range(len(train)), train_size=1 - VAL_SHARE)[1])
        left_out = {}
    else:
        tested = {item.patient for item in test}
        left_out = {"training films of test patients": sum(item.patient in tested for item in train)}
        train = [item for item in train if item.patient not in tested]
        held_out = {at for at, item in enumerate(train) if samples.share_of(item.patient) < VAL_SHARE}
    train = [dataclasses.replace(item, split="val") if at in held_out else item for at, item in enumerate(train)]
    return DatasetIndex(train + test, classes, counts, left_out, PUBLISHED.get(split, {}), leaks=split == "mgca")
