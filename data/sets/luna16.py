"""LUNA16: chest CTs with nodules in world coordinates, in ten subsets."""

import collections
from pathlib import Path

from data.errors import UserError
from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

SUBSETS = 10
LAYOUT = "subset0/<seriesuid>.mhd ... subset9/, or subset0/subset0/..."
EXPECTED = {"CTs": 888, "CTs of subset0": 89}


def read(root: Path, *, test: int, val: int, smallest_mm: float) -> DatasetIndex:
    """The CTs of the subsets that are there; `test` and `val` are the numbers of those of the two splits.

    Nodules of at most `smallest_mm` are left out (the paper's check of slices takes those above 3 mm).
    """
    if test == val or not {test, val} <= set(range(SUBSETS)):
        raise UserError(f"config.options.test={test} and val={val} are two different subsets, 0 to {SUBSETS - 1}")
    tables = ("annotations.csv", "CSVFILES/annotations.csv", "annotations/annotations.csv")
    rows = dataset_index.table(root, tables, ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"))
    nodules: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
    for row in rows:
        place = tuple(float(row[name]) for name in ("coordX", "coordY", "coordZ", "diameter_mm"))
        nodules[row["seriesuid"]] += [place] if place[3] > smallest_mm else []
    items, counts = [], collections.Counter({"CTs": 0, "nodules listed": len(rows)})
    dataset_index.find(root, f"subset{test}")  # without it there is nothing to test on: a wrong path
    for number in range(SUBSETS):
        folder = dataset_index.inner(root / f"subset{number}", f"subset{number}")
        for path in sorted(folder.glob("*.mhd")):
            split = {test: "test", val: "val"}.get(number, "train")
            inside = tuple(nodules.get(path.stem, ()))
            counts.update({"CTs": 1, f"CTs of subset{number}": 1, "CTs with a nodule": int(bool(inside))})
            labels = (float(bool(inside)),)
            items.append(Item(str(path.relative_to(root)), "ct", path.stem, split, labels=labels, annotation=inside))
    counts["nodules on these CTs"] = sum(len(item.annotation) for item in items)
    read = annotations.volume_with_nodules
    return DatasetIndex(items, ("Nodule",), counts, read=read, annotations=("boxes", "lesion_mask"))
