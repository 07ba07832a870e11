"""Open-i (Indiana University): X-rays with reports, from NLM's XML or the two tables of Kaggle's copy."""

import collections
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Rejected

VIEWS = ("frontal", "lateral", "unknown")
PICTURES = {"NLM": ("NLMCXR_png", "images"), "Kaggle": ("images/images_normalized", "images")}
LAYOUT = "ecgen-radiology/*.xml and NLMCXR_png/, or indiana_reports.csv, indiana_projections.csv and images/"
EXPECTED = {"reports": "3,955 in NLM's release"}


def read(root: Path, *, views: str, labels: str) -> DatasetIndex:
    """X-rays of `views` (frontal, lateral, unknown) with findings and impression; splits by patient.

    NLM's XML does not hold the view: its X-rays are of unknown view. `labels` names findings to store, which are
    compared with the first part of MeSH terms, such as "Cardiomegaly" of "Cardiomegaly/mild".
    """
    view_names = dataset_index.words(views.lower())
    for view in view_names:
        dataset_index.check_option("views", view, VIEWS)
    names = dataset_index.words(labels)
    kaggle = (root / "indiana_reports.csv").exists()
    folder = dataset_index.find(root, *PICTURES["Kaggle" if kaggle else "NLM"]).relative_to(root)
    items, left_out, rejected = [], collections.Counter(), []
    count = 0
    for number, (uid, report, terms, pictures) in enumerate(_tables(root) if kaggle else _xml(root, rejected), start=1):
        count = number
        left_out["reports without a picture"] += not pictures
        findings = {term.partition("/")[0].strip().lower() for term in terms}
        values = tuple(float(name.lower() in findings) for name in names)
        for picture, view in pictures:
            if view not in view_names:
                left_out[f"films of {view} view"] += 1
                continue
            items.append(Item(f"{folder.as_posix()}/{picture}", "xray", uid, "", report, uid, values))
    counts = {"reports": count, "films of these views": len(items)}
    return DatasetIndex(items, names, counts, left_out, rejected=rejected)


Report = tuple[str, dict[str, str], list[str], list[tuple[str, str]]]  # patient, sections, MeSH terms, (file, view)


def _tables(root: Path) -> Iterator[Report]:
    shown: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for row in dataset_index.table(root, "indiana_projections.csv", ("uid", "filename", "projection")):
        shown[row["uid"]].append((row["filename"], row["projection"].lower() or "unknown"))
    needed = ("uid", "MeSH", "findings", "impression")
    for row in dataset_index.table(root, "indiana_reports.csv", needed):
        report = {name: row[name] for name in ("findings", "impression")}
        yield row["uid"], report, row["MeSH"].split(";"), shown[row["uid"]]


def _xml(root: Path, rejected: list[Rejected]) -> Iterator[Report]:
    folder = dataset_index.find(root, "ecgen-radiology", "NLMCXR_reports/ecgen-radiology")
    for number, path in enumerate(sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem)), start=1):
        try:
            tree = ElementTree.parse(path)
        except ElementTree.ParseError:
            reason = "truncated: the XML ends early or is damaged"
            rejected.append(Rejected(number, str(path.relative_to(root)), reason))
            continue
        parts = {part.get("Label", "").lower(): part.text or "" for part in tree.iter("AbstractText")}
        terms = [term.text or "" for term in tree.iter("major")]
        pictures = [(f"{picture.get('id')}.png", "unknown") for picture in tree.iter("parentImage")]
        report = {name: parts.get(name, "") for name in ("findings", "impression")}
        yield path.stem, report, terms, pictures
