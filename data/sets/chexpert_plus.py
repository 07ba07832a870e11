"""CheXpert Plus (Stanford AIMI): CheXpert's X-rays with their reports and 14 labels (arXiv 2405.19538)."""

import collections
import json
from collections.abc import Mapping
from pathlib import Path

from data.errors import UserError
from data.manifest import samples
from data.manifest.options import BLANK, UNCERTAIN
from data.readers.files import BadInput, read_bytes
from data.sets import dataset_index
from data.sets.chexpert import LABELS, TASKS
from data.sets.dataset_index import DatasetIndex, Item

TABLE = "df_chexpert_plus_240401.csv"
COLUMNS = ("path_to_image", "frontal_lateral", "section_findings", "section_impression", "split")
LABELERS = ("", "report", "findings", "impression")
FOLDERS = ("PNG/PNG", "PNG", "PNGs", "images", ".")
SUFFIXES = (".png", ".jpg")
LAYOUT = f"{TABLE}, chexbert_labels/report_fixed.json and PNG/train/patient00001/study1/view1_frontal.png (or .jpg)"
EXPECTED = {"films": 223_228, "studies": 187_711, "patients": 64_725}


def read(
    root: Path, *, views: str, labeler: str, uncertain: str, blank: str, lists: str, val_share: float
) -> DatasetIndex:
    """X-rays of `views` (Frontal, Lateral) with a report; part "valid" is the test split, val a share of the others.

    `labeler` names the text that CheXbert read: report, findings or impression; empty: no labels. With `lists`, a CSV
    of X-rays by `Path` and the five tasks (CheXpert 5x200), there are these alone, all to test on, with its labels.
    """
    dataset_index.check_option("blank", blank, BLANK)
    dataset_index.check_option("labeler", labeler, LABELERS)
    dataset_index.check_option("uncertain", uncertain, UNCERTAIN)
    shown = {view.lower() for view in dataset_index.words(views)}
    names, listed = LABELS, _listed(Path(lists).expanduser()) if lists else None
    if listed is not None:
        names, label_of = TASKS, listed
    else:
        label_of = _labels(root, labeler, UNCERTAIN[uncertain], blank) if labeler else {}
    rows = dataset_index.table(root, TABLE, COLUMNS)
    items, left_out, studies = [], collections.Counter(), set()
    folder, suffix = _place(root, rows)
    for row in rows:
        part, patient, study, *_ = row["path_to_image"].split("/")
        studies.add((patient, study))
        if row["frontal_lateral"].lower() not in shown:
            left_out[f"films that are not {views}"] += 1
            continue
        if listed is not None and row["path_to_image"] not in listed:
            left_out["films that are not in the list"] += 1
            continue
        path = str(Path(folder, row["path_to_image"]).with_suffix(suffix))
        split = {"valid": "test", "test": "test"}.get(row["split"].lower() or part, "train")
        split = "test" if listed is not None else split
        side = "val" if split == "train" and samples.share_of(patient) < val_share else split
        report = {"findings": row["section_findings"], "impression": row["section_impression"]}
        labels = label_of.get(row["path_to_image"], (float("nan"),) * len(names)) if label_of or labeler else ()
        of = {"study": study, "view": row["frontal_lateral"].lower()}
        items.append(Item(path, "xray", patient, side, report, f"{patient}/{study}", labels, **of))
    counts = {"films": len(rows), "studies": len(studies), "patients": len({patient for patient, _ in studies})}
    if listed is not None:
        left_out["listed films that the table lacks"] = len(listed.keys() - {row["path_to_image"] for row in rows})
    return DatasetIndex(items, names if label_of or labeler else (), counts, left_out)


def _listed(path: Path) -> Mapping[str, tuple[float, ...]]:
    """The five tasks of each X-ray of a list, by its path below CheXpert's folder; a blank is 0."""
    rows = dataset_index.table(path.parent, path.name, ("Path", *TASKS))
    places = (row["Path"].partition("/")[2] if row["Path"].startswith("CheXpert") else row["Path"] for row in rows)
    labels = (tuple(dataset_index.label(row[task], 0.0, "negative") for task in TASKS) for row in rows)
    return dict(zip(places, labels, strict=True))


def _place(root: Path, rows: list[dict[str, str]]) -> tuple[str, str]:
    """The folder below `root` and the suffix of the films, by the first film of the table that is there."""
    for row in rows:
        for folder in FOLDERS:
            for suffix in SUFFIXES:
                if (root / folder / row["path_to_image"]).with_suffix(suffix).exists():
                    return folder, suffix
    raise UserError(
        f"{root} has no X-rays: looked below it for {LAYOUT}. data/README.md links to the trees that are read"
    )


def _labels(root: Path, labeler: str, uncertain: float, blank: str) -> Mapping[str, tuple[float, ...]]:
    """Labels by the film's path, of CheXbert's file: one JSON object per line, or a list of them."""
    path = dataset_index.find(root, f"chexbert_labels/{labeler}_fixed.json", f"{labeler}_fixed.json")
    try:
        content = read_bytes(path).decode("utf-8")
        rows = (
            json.loads(content)
            if content.lstrip().startswith("[")
            else map(json.loads, filter(None, content.splitlines()))
        )
        return {row["path_to_image"]: tuple(_value(row[name], uncertain, blank) for name in LABELS) for row in rows}
    except BadInput as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def _value(value: float | None, uncertain: float, blank: str) -> float:
    if value is None:
        return float("nan") if blank == "unknown" else 0.0
    return uncertain if value == -1 else float(value)
