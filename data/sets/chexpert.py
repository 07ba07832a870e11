"""CheXpert-v1.0, in batches or merged, or -small: five findings, test X-rays, and the 5x200 X-rays for retrieval."""

import collections
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.manifest import samples
from data.manifest.options import UNCERTAIN
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item, label

LABELS = dataset_index.words(
    "No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation, "
    "Pneumonia, Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices"
)
TASKS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
ZERO_IN_5X200 = tuple(name for name in LABELS if name not in (*TASKS, "No Finding"))
MGCA = dict(zip(TASKS, (1.0, 0.0, 0.0, 1.0, 1.0), strict=True))  # what -1 becomes there, and blank becomes 0
VAL_SHARE = 5000 / 223_414
PUBLISHED = {"mgca": {"train": 186_027, "val": 5_000, "test": 202}}  # G2D, frontal X-rays
EXPECTED = {
    "rows of train.csv": 223_414,
    "patients of train.csv": 64_540,
    "frontal films of train.csv": 191_027,
    "lateral films of train.csv": 32_387,
    "frontal films of valid.csv": 202,
    "films of 5x200": 1_000,
}
LAYOUT = (
    "train.csv and valid.csv, in the folder or in 'CheXpert-v1.0 batch 1 (validate & csv)', and the films they name"
)
BATCHES = "CheXpert-v1.0 batch *"  # as downloaded: tables and valid/ in the first, the training patients in the others
Row = Mapping[str, str]


def read(root: Path, *, part: str, split: str, views: str, uncertain: str, each: int, val: int) -> DatasetIndex:
    """X-rays of `views` with the five tasks; with `part` "5x200" only X-rays of exactly one task, `each` a task.

    `split` "clean" leaves out the patients of 5x200 and takes val by a hash of the patient. "mgca" is the split of its
    code, which draws `val` X-rays from all views and has some of them in training too.
    """
    dataset_index.check_option("part", part, ("main", "5x200"))
    dataset_index.check_option("split", split, ("clean", "mgca"))
    dataset_index.check_option("uncertain", uncertain, ("mgca", *UNCERTAIN))
    needed = ("Path", "Frontal/Lateral", *LABELS)
    tables = next((batch for batch in dataset_index.folders(root, BATCHES) if (batch / "train.csv").exists()), root)
    train, test = (dataset_index.table(tables, name, needed) for name in ("train.csv", "valid.csv"))
    chosen = few(train, each)
    counts = _counts(train, test) | {"films of 5x200": len(chosen)}
    left_out: collections.Counter = collections.Counter()
    item = functools.partial(_item, uncertain=uncertain, batch_of=_batches(root))
    if part == "5x200":
        return DatasetIndex([item(train[at], "test") for at in chosen], TASKS, counts)
    if split == "mgca":
        placed = mgca(len(train), chosen, val)
    else:
        apart = {_patient(train[at]) for at in chosen}
        left_out["films of 5x200's patients"] = sum(_patient(row) in apart for row in train)
        placed = [
            (at, "val" if samples.share_of(_patient(row)) < VAL_SHARE else "train")
            for at, row in enumerate(train)
            if _patient(row) not in apart
        ]
    shown = {view.strip().lower() for view in views.split(",")}
    rows = [(train[at], side) for at, side in placed] + [(row, "test") for row in test]
    shown_rows = [(row, side) for row, side in rows if row["Frontal/Lateral"].lower() in shown]
    left_out[f"films that are not {views}"] = len(rows) - len(shown_rows)
    items, published = [item(*one) for one in shown_rows], PUBLISHED.get(split, {})
    return DatasetIndex(items, TASKS, counts, left_out, published, leaks=split == "mgca")


def few(rows: Sequence[Row], each: int) -> list[int]:
    """Places of CheXpert 5x200's rows: frontal, one task at 1 and the other findings at 0 or blank, drawn by seed 0."""
    chosen: list[int] = []
    for task in TASKS:
        alone = [
            at
            for at, row in enumerate(rows)
            if row["Frontal/Lateral"] == "Frontal"
            and label(row[task], -1.0) == 1
            and all(label(row[name] or "0", -1.0) == 0 for name in (*TASKS, *ZERO_IN_5X200) if name != task)
        ]
        drawn = np.random.RandomState(0).choice(len(alone), min(each, len(alone)), replace=False)  # as pandas samples
        chosen += [alone[at] for at in drawn]
    return chosen


def mgca(count: int, chosen: Sequence[int], val: int) -> list[tuple[int, str]]:
    """(row, split) of MGCA's split, which draws val by position among the rows without 5x200 and drops it by label.

    So some rows are in both train and val, and some in neither.
    """
    gone = set(chosen)
    left = [at for at in range(count) if at not in gone]
    drawn = np.random.RandomState(0).choice(len(left), val, replace=False)
    dropped = set(drawn.tolist())
    return [(at, "train") for at in left if at not in dropped] + [(left[at], "val") for at in drawn]


def _batches(root: Path) -> dict[str, str]:
    """The folder below `root` that holds each patient's, where the set lies in batches; else empty."""
    batches = dataset_index.folders(root, BATCHES, f"{BATCHES}/valid", f"{BATCHES}/train", f"{BATCHES}/{BATCHES}")
    places = [(path, batch) for batch in batches for path in batch.iterdir() if path.name.startswith("patient")]
    return {path.name: str(batch.relative_to(root)) for path, batch in places}


def _item(row: Row, split: str, *, uncertain: str, batch_of: Mapping[str, str]) -> Item:
    blank, meaning = ("0", MGCA) if uncertain == "mgca" else ("", dict.fromkeys(TASKS, UNCERTAIN[uncertain]))
    labels = tuple(label(row[task] or blank, meaning[task]) for task in TASKS)
    patient, path = _patient(row), row["Path"].partition("/")[2]
    if batch := batch_of.get(patient):
        path = f"{batch}/{path.partition('/')[2]}"
    return Item(path, "xray", patient, split, labels=labels)


def _patient(row: Row) -> str:
    """`patient00001` of `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`."""
    return (row["Path"].split("/") + [""] * 3)[2]


def _counts(train: Sequence[Row], test: Sequence[Row]) -> dict[str, int]:
    views = collections.Counter(row["Frontal/Lateral"] for row in train)
    return {
        "rows of train.csv": len(train),
        "patients of train.csv": len({_patient(row) for row in train}),
        "frontal films of train.csv": views["Frontal"],
        "lateral films of train.csv": views["Lateral"],
        "frontal films of valid.csv": sum(row["Frontal/Lateral"] == "Frontal" for row in test),
    }
