"""object-CXR (JF Healthcare, MIDL 2020): boxes of foreign objects."""

from pathlib import Path

from data.readers.files import BadInput
from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Rejected

SHAPES = ("0", "1", "2")  # rectangle, ellipse, polygon
LAYOUT = "train.csv, dev.csv and the films they name in train/ and dev/"
EXPECTED = {"films of train.csv": "8,000, by G2D, in 6,400 and 1,600", "films of dev.csv": 1_000}


def read(root: Path) -> DatasetIndex:
    """X-rays of train.csv, a tenth of them for validation as in MGCA, and of dev.csv, the test X-rays.

    A box is the bounding box of its shape's corners; MGCA's boxes of polygons are centred elsewhere and larger.
    """
    items: list[Item] = []
    rejected: list[Rejected] = []
    counts = {}
    tables = {name: dataset_index.table(root, f"{name}.csv", ("image_name", "annotation")) for name in ("train", "dev")}
    train, held_out = dataset_index.drawn(range(len(tables["train"])), test_size=0.1)
    # In the order of MGCA's lists, which its draws of 1 and 10 % depend on.
    order = {"train": (*train, *held_out), "dev": range(len(tables["dev"]))}
    sides = {"train": dict.fromkeys(held_out, "val"), "dev": {}}
    for name, rows in tables.items():
        counts[f"films of {name}.csv"] = len(rows)
        for at in order[name]:
            row = rows[at]
            path, side = f"{name}/{row['image_name']}", sides[name].get(at, "train" if name == "train" else "test")
            try:
                boxes = tuple(box(shape) for shape in row["annotation"].split(";") if shape.strip())
            except BadInput as error:
                rejected.append(Rejected(at + 1, path, str(error)))
                continue
            items.append(Item(path, "xray", path, side, labels=(float(bool(boxes)),), annotation=boxes))
    counts["objects"] = sum(len(item.annotation) for item in items)
    read = annotations.xray_with_boxes
    return DatasetIndex(items, ("Foreign Object",), counts, read=read, annotations=("boxes",), rejected=rejected)


def box(shape: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of "type x1 y1 x2 y2 ...". Raises BadInput."""
    kind, *numbers = shape.split()
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise BadInput("mask_values", "an annotation holds something else than numbers") from error
    if kind not in SHAPES or len(values) < 4 or len(values) % 2:
        raise BadInput("mask_values", "an annotation is no rectangle, ellipse or polygon")
    return min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
