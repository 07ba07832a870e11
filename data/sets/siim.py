"""SIIM-ACR Pneumothorax (stage 1 or 2): pneumothorax and its mask from run lengths."""

import collections
import functools
from pathlib import Path

import numpy as np
import pydicom

from data.manifest.samples import Sample
from data.readers import geometry, xrays
from data.readers.files import Note
from data.record_grid import RecordGrid
from data.sets import annotations, dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

NONE = "-1"
TABLES = ("train-rle.csv", "stage_2_train.csv")
FOLDERS = ("dicom-images-train", "dicom-images-test", "stage_2_images", "train", "test")
LAYOUT = (
    "train-rle.csv or stage_2_train.csv, and dicom-images-train/[<study>/<series>/]<ImageId>.dcm or stage_2_images/"
)
EXPECTED = {"rows": 12_954, "films": 12_047, "with pneumothorax": 2_669, "rows without": 9_378}


def read(root: Path, *, split: str, greys: str = "window") -> DatasetIndex:
    """Every X-ray; `split` "clean" goes by study, "mgca" by row of the table, in the order of MGCA's tables.

    MGCA's split puts rows of one X-ray into two splits, each with its part of the mask; it is reproduced here. How many
    X-rays without pneumothorax train is drawn by its protocol (`unimedi_jax/evaluation/draws.py`). `greys` as of RSNA.
    """
    dataset_index.check_option("greys", greys, ("window", "largest"))
    dataset_index.check_option("split", split, ("clean", "mgca"))
    rows = dataset_index.table(root, TABLES, ("ImageId", "EncodedPixels"))
    rows = [row | {"ImageId": row["ImageId"].removesuffix(".dcm")} for row in rows]
    first = dataset_index.find(root, *FOLDERS)
    folders = [first, *(root / name for name in FOLDERS if name != first.name)]
    files = {path.stem: path for folder in folders[::-1] for path in sorted(folder.rglob("*.dcm"))}
    places = range(len(rows))
    # By the published split in the order of its tables, which the draws of 1 and 10 % depend on.
    sides = dataset_index.split_in_three(places, 0.3) if split == "mgca" else dict.fromkeys(places, "")
    runs: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for at, side in sides.items():
        pixels = rows[at]["EncodedPixels"]
        runs[rows[at]["ImageId"], side] += [pixels] if pixels != NONE else []
    items = []
    for (image, side), of in runs.items():
        path = files.get(image, first / f"{image}.dcm")
        place, labels = str(path.relative_to(root)), (float(bool(of)),)
        items.append(Item(place, "xray", _study(path, root), side, labels=labels, annotation=tuple(of)))
    positive = {row["ImageId"] for row in rows if row["EncodedPixels"] != NONE}
    counts = {"rows": len(rows), "films": len({row["ImageId"] for row in rows}), "with pneumothorax": len(positive)}
    counts["rows without"] = sum(row["EncodedPixels"] == NONE for row in rows)
    reader, leaks = functools.partial(xray_with_runs, by_largest=greys == "largest"), split == "mgca"
    return DatasetIndex(items, ("Pneumothorax",), counts, read=reader, annotations=("lesion_mask",), leaks=leaks)


def _study(path: Path, root: Path) -> str:
    """The study of a film: the folder that Kaggle's archive keeps it in, or, in a flattened copy, as its header says.

    The film's own name where it has neither. Films of one study belong to one patient.
    """
    places = path.relative_to(root).parts
    if len(places) > 3:
        return places[1]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        return str(header.get("StudyInstanceUID") or path.stem)
    except Exception:  # missing or damaged: the reader says why when it comes to the pixels
        return path.stem


def xray_with_runs(sample: Sample, modality: str, note: Note, grid: RecordGrid, *, by_largest: bool = False) -> Example:
    """An X-ray and its mask, 1 where any of its runs lies. Raises BadInput."""
    film = xrays.read_film(sample.file, note, by_largest=by_largest)
    mask = np.zeros(film.stored, bool)
    for run in sample.annotation:
        mask |= annotations.relative_runs(run, film.stored)
    small = geometry.canonical_xray_mask(film.hang(mask.astype(np.uint8)), 1, grid.film_size)
    return {"image": geometry.canonical_xray(film.pixels, grid.film_size), "lesion_mask": small}
