"""COVIDx CXR (Kaggle andyczhao/covidx-cxr2): normal, pneumonia, COVID-19 (9A), or negative and positive (9B, CXR-4)."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.manifest import samples
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

CLASSES = {"9A": ("normal", "pneumonia", "COVID-19"), **dict.fromkeys(("9B", "CXR-4"), ("negative", "positive"))}
LISTS = {"CXR-4": ("train.txt", "val.txt", "test.txt")}  # of recent copies; older ones: train_COVIDx9A.txt
LAYOUT = "train_COVIDx9A.txt and test_COVIDx9A.txt (of 9B alike), or train.txt, val.txt and test.txt of CXR-4"
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
    "CXR-4 films": 84_818,
}


def read(root: Path, *, version: str, split: str) -> DatasetIndex:
    """The lists of a `version`; `split` "clean" holds out a fifth of training patients, "mgca" a fifth of X-rays.

    CXR-4 has a val list of its own; "clean" leaves out training X-rays of its patients and of those of the test list.
    """
    dataset_index.check_option("version", version, CLASSES)
    classes = CLASSES[version]
    dataset_index.check_option("split", split, ("clean", "mgca") if version != "CXR-4" else ("clean",))
    items: list[Item] = []
    counts: collections.Counter = collections.Counter()
    for side, path in _lists(root, version):
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            fields = line.split()
            if len(fields) != FIELDS:
                raise UserError(f"{path}: {len(fields)} fields in a line, not `patient_id filename class source`")
            patient, name, kind, _ = fields
            if kind not in classes:
                raise UserError(f"{path}: the class {kind!r} is not of {version} ({', '.join(classes)})")
            counts[f"{side} {kind}" if version != "CXR-4" else f"CXR-4 {side} {kind}"] += 1
            counts.update({"CXR-4 films": 1} if version == "CXR-4" else {})
            labels = tuple(float(kind == known) for known in classes)
            items.append(Item(f"{side}/{name}", "xray", patient, side, labels=labels))
    train, val, test = ([item for item in items if item.split == side] for side in ("train", "val", "test"))
    if split == "mgca":
        order, drawn = dataset_index.drawn(range(len(train)), train_size=1 - VAL_SHARE)
        # In the order of MGCA's list, which its draws of 1 and 10 % depend on.
        train, held_out = [train[at] for at in (*order, *drawn)], set(range(len(order), len(train)))
        left_out = {}
    else:
        tested = {item.patient for item in test}
        left_out = {"training films of test patients": sum(item.patient in tested for item in train)}
        if val:
            left_out["val films of test patients"] = sum(item.patient in tested for item in val)
            val = [item for item in val if item.patient not in tested]
            checked = {item.patient for item in val}
            left_out["training films of val patients"] = sum(item.patient in checked - tested for item in train)
            train = [item for item in train if item.patient not in checked]
        train = [item for item in train if item.patient not in tested]
        share = 0 if val else VAL_SHARE
        held_out = {at for at, item in enumerate(train) if samples.share_of(item.patient) < share}
    train = [dataclasses.replace(item, split="val") if at in held_out else item for at, item in enumerate(train)]
    return DatasetIndex(train + val + test, classes, counts, left_out, PUBLISHED.get(split, {}), leaks=split == "mgca")


def _lists(root: Path, version: str) -> Iterator[tuple[str, Path]]:
    """(split, list) of a version. Raises UserError, which names CXR-4 where only its lists are there."""
    newer = LISTS["CXR-4"]
    names = LISTS.get(version, [f"{side}_COVIDx{version}.txt" for side in ("train", "test")])
    if version not in LISTS and not (root / names[0]).exists() and all((root / name).exists() for name in newer):
        raise UserError(f"{root} has no {names[0]}, but the lists of CXR-4: set config.options.version=CXR-4")
    yield from ((name.partition(".")[0].partition("_")[0], dataset_index.find(root, name)) for name in names)
