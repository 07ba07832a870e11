"""VinDr-CXR 1.0.0 (PhysioNet): frontal X-rays labelled by three radiologists each, the test X-rays by consensus."""

import collections
from collections.abc import Mapping
from pathlib import Path

from data.manifest import samples
from data.readers import table
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

READERS = 3
VOTES = {"any": 1, "majority": 2, "all": READERS}
OF_ROWS = ("image_id", "rad_id", "rad_ID")  # columns that are no label
RENAMED = {"Other disease": "Other diseases"}  # one table writes it so, the other so
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")
LAYOUT = "train/<image_id>.dicom, test/<image_id>.dicom and annotations/image_labels_{train,test}.csv"
EXPECTED = {"rows of image_labels_train.csv": 45_000, "films of train": 15_000, "films of test": 3_000, "labels": 28}


def read(root: Path, *, vote: str, val_share: float) -> DatasetIndex:
    """Every labelled X-ray. `vote` is how many of a training X-ray's readers a label needs: any, majority or all.

    The set names no patients: each X-ray counts as one. val is a share of the training X-rays.
    """
    dataset_index.check_option("vote", vote, VOTES)
    items, left_out, counts, labels = [], collections.Counter(), {}, ()
    for split in ("train", "test"):
        names, votes, readers = _votes(root, f"annotations/image_labels_{split}.csv")
        if labels and set(names) != set(labels):
            raise ValueError("the two tables have different labels")
        labels = labels or names
        files = {path.stem: path for suffix in SUFFIXES[::-1] for path in (root / split).glob(f"*{suffix}")}
        counts |= {f"rows of image_labels_{split}.csv": sum(readers.values()), f"films of {split}": len(votes)}
        for image in sorted(votes):
            if image not in files:
                left_out["films that are not in the tree"] += 1
                continue
            needed = VOTES[vote] if split == "train" else 1
            values = tuple(float(votes[image][name] >= needed) for name in labels)
            side = "val" if split == "train" and samples.share_of(image) < val_share else split
            items.append(Item(str(files[image].relative_to(root)), "xray", image, side, labels=values))
    return DatasetIndex(items, labels, counts | {"labels": len(labels)}, left_out)


def _votes(root: Path, name: str) -> tuple[tuple[str, ...], Mapping[str, Mapping[str, float]], Mapping[str, int]]:
    """The labels of a table, the votes for each on each X-ray, and how many readers each X-ray has."""
    path = dataset_index.find(root, name, Path(name).name)
    header, _ = table.read_columns(path, ("image_id",))
    columns = [column for column in header if column and column not in OF_ROWS]
    votes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    readers: collections.Counter = collections.Counter()
    for row in table.read_published(path, ("image_id", *columns)):
        readers[row["image_id"]] += 1
        votes[row["image_id"]].update({RENAMED.get(one, one): float(row[one] or 0) for one in columns})
    return tuple(RENAMED.get(one, one) for one in columns), votes, readers
