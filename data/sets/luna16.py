"""LUNA16: chest CTs with nodules in world coordinates, in ten subsets."""

import collections
from pathlib import Path

from data.errors import UserError
from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

SUBSETS = 10
GENESIS = {**dict.fromkeys((5, 6), "val"), **dict.fromkeys((7, 8, 9), "test")}  # Models Genesis's; the others train
Place = tuple[float, ...]
UNMEASURED_MM = 10.0  # for the -1 of findings without a diameter, as LUNA16's evaluation has it
LAYOUT = "subset0/<seriesuid>.mhd ... subset9/, or subset0/subset0/..."
EXPECTED = {"CTs": 888, "CTs of subset0": 89, "candidates on these CTs": 754_975}


def read(
    root: Path, *, test: int, val: int, smallest_mm: float, candidates: bool = False, split: str = "subsets"
) -> DatasetIndex:
    """The CTs of the subsets that are there; `test` and `val` are the numbers of those of the two splits.

    By `split` "genesis" five subsets train, two validate and three test, as Models Genesis and others report.

    Nodules of at most `smallest_mm` are left out (the paper's check of slices takes those above 3 mm). With
    `candidates` the places of candidates_V2.csv are in the records, and those of annotations_excluded.csv.
    """
    if test == val or not {test, val} <= set(range(SUBSETS)):
        raise UserError(f"config.options.test={test} and val={val} are two different subsets, 0 to {SUBSETS - 1}")
    dataset_index.check_option("split", split, ("subsets", "genesis"))
    splits = GENESIS if split == "genesis" else {test: "test", val: "val"}
    tables = ("annotations.csv", "CSVFILES/annotations.csv", "annotations/annotations.csv")
    rows = dataset_index.table(root, tables, ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"))
    nodules: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
    for row in rows:
        place = tuple(float(row[name]) for name in ("coordX", "coordY", "coordZ", "diameter_mm"))
        nodules[row["seriesuid"]] += [place] if place[3] > smallest_mm else []
    items, counts = [], collections.Counter({"CTs": 0, "nodules listed": len(rows)})
    proposed, excluded = (_candidates(root), _excluded(root)) if candidates else ({}, {})
    dataset_index.find(
        root, *(f"subset{number}" for number in splits if splits[number] == "test")
    )  # without it there is nothing to test on: a wrong path
    for number in range(SUBSETS):
        folder = dataset_index.inner(root / f"subset{number}", f"subset{number}")
        for path in sorted(folder.glob("*.mhd")):
            inside = tuple(nodules.get(path.stem, ()))
            counts.update({"CTs": 1, f"CTs of subset{number}": 1, "CTs with a nodule": int(bool(inside))})
            labels = (float(bool(inside)),)
            counts["nodules on these CTs"] += len(inside)
            marks = inside
            if candidates:
                marks = (inside, tuple(proposed.get(path.stem, ())), tuple(excluded.get(path.stem, ())))
                counts["candidates on these CTs"] += len(marks[1])
            place, side = str(path.relative_to(root)), splits.get(number, "train")
            items.append(Item(place, "ct", path.stem, side, labels=labels, annotation=marks))
    read, fields = annotations.volume_with_nodules, ("boxes", "lesion_mask")
    if candidates:
        read, fields = annotations.volume_with_candidates, (*fields, "candidates", "excluded")
    return DatasetIndex(items, ("Nodule",), counts, read=read, annotations=fields)


def _candidates(root: Path) -> dict[str, list[Place]]:
    """Class, x, y, z of every candidate by series."""
    names = [f"{folder}candidates_V2.csv" for folder in ("", "CSVFILES/", "candidates_V2/")]
    rows = dataset_index.table(root, names, ("seriesuid", "coordX", "coordY", "coordZ", "class"))
    return _by_series(rows, ("class", "coordX", "coordY", "coordZ"))


def _excluded(root: Path) -> dict[str, list[Place]]:
    """x, y, z, diameter of the findings that are neither hits nor false positives; no diameter is below 0."""
    folders = ("", "CSVFILES/", "annotations/", "evaluationScript/annotations/")
    columns = ("coordX", "coordY", "coordZ", "diameter_mm")
    names = [f"{folder}annotations_excluded.csv" for folder in folders]
    listed = _by_series(dataset_index.table(root, names, ("seriesuid", *columns)), columns)
    return {
        series: [(*middle, UNMEASURED_MM if diameter < 0 else diameter) for *middle, diameter in places]
        for series, places in listed.items()
    }


def _by_series(rows: list[dict[str, str]], columns: tuple[str, ...]) -> dict[str, list[Place]]:
    places: dict[str, list[Place]] = collections.defaultdict(list)
    for row in rows:
        places[row["seriesuid"]].append(tuple(float(row[name]) for name in columns))
    return places
