"""MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR: frontal X-rays, impression and findings, official split."""

import collections
from collections.abc import Callable, Mapping
from pathlib import Path

from data.errors import UserError
from data.manifest.options import BLANK, UNCERTAIN
from data.reports import sections
from data.sets import dataset_index
from data.sets.chexpert import LABELS
from data.sets.dataset_index import DatasetIndex, Item

VERSION = "mimic-cxr-2.0.0"
SPLITS = {"official": {"train": "train", "validate": "val", "test": "test"}}
SPLITS["mgca"] = {"train": "train", "validate": "val", "test": "val"}
LAYOUT = "files/p10/p10000032/s50414267/<dicom_id>.jpg, p10/..., or all films in files/, images/ or the folder itself"
FLAT = ("files", "images", ".")  # where copies keep all films in one folder
SUFFIXES = ("jpg", "png")
EXPECTED = {"films in the split table": 377_110, "films of these views with a report": "about 217,000, by the authors"}

# Studies whose findings are under another heading, as in MIT-LCP's section files.
UNDER_HEADING = {
    "recommendation": "s50913680 s59768032 s59067458 s59087630 s58157373 s56482935 s58375018",
    "examination": "s59363654 s53356173 s50743547 s59215320 s55157853",
    "technique": "s59279892 s53202765 s50808053",
    "indication": "s57936451 s50058765 s51966317 s55124749 s54365831 s54654948",
    "note": "s56451190",
    "history": "s51491012",
}
UNDER = {study: heading for heading, studies in UNDER_HEADING.items() for study in studies.split()}
# Studies whose findings are between two characters of the file there, and those that have none.
CHARACTERS = (
    "s50525523 201 349, s57564132 233 554, s59982525 313 717, s53488209 149 475, s54875119 234 988, "
    "s50196495 59 399, s56579911 59 218, s52648681 292 631, s59889364 172 453, s53514462 73 377, "
    "s59505494 59 450, s53182247 59 412, s51410602 47 320, s56412866 522 822, s54986978 59 306, "
    "s59003148 262 505, s57150433 61 394, s56760320 219 457, s59562049 158 348, s52674888 145 296, "
    "s55258338 192 568, s59330497 140 655, s52119491 179 454"
)
NOWHERE = "s58235663 s50798377 s54168089 s53071062 s56724958 s54231141 s53607029 s52035334"
BETWEEN = {study: (int(start), int(end)) for study, start, end in map(str.split, CHARACTERS.split(", "))}
BETWEEN |= dict.fromkeys(NOWHERE.split(), (0, 0))


def read(root: Path, *, reports: str, views: str, split: str, labeler: str, uncertain: str, blank: str) -> DatasetIndex:
    """X-rays of these `views` whose study has a report.

    `reports` is the folder that holds `files/p10/...` with the texts, or MIT-LCP's `mimic_cxr_sectioned.csv`; empty:
    the folder of the images. `split` "mgca" merges validate and test into val, and leaves out the studies of BETWEEN.
    """
    dataset_index.check_option("split", split, SPLITS)
    dataset_index.check_option("uncertain", uncertain, UNCERTAIN)
    dataset_index.check_option("blank", blank, BLANK)
    view_names = dataset_index.words(views.upper())
    metadata = dataset_index.table(root, f"{VERSION}-metadata.csv", ("dicom_id", "ViewPosition"))
    view_of = {row["dicom_id"]: row["ViewPosition"].upper() for row in metadata}
    label_of = _labels(root, labeler, UNCERTAIN[uncertain], blank) if labeler else {}
    report_of = _reports(Path(reports).expanduser() if reports else root)
    place = _place(root)
    items, left_out = [], collections.Counter()
    rows = dataset_index.table(root, f"{VERSION}-split.csv", ("dicom_id", "study_id", "subject_id", "split"))
    for row in rows:
        if view_of.get(row["dicom_id"]) not in view_names:
            left_out[f"films of other views than {views}"] += 1
            continue
        subject, study = f"p{row['subject_id']}", f"s{row['study_id']}"
        report = None if split == "mgca" and study in BETWEEN else report_of(subject, study)
        if report is None:
            left_out["films of studies without a report"] += 1
            continue
        path = place(subject, study, row["dicom_id"])
        labels = label_of.get(study, (float("nan"),) * len(LABELS)) if labeler else ()
        side, view = SPLITS[split].get(row["split"], ""), view_of[row["dicom_id"]]
        items.append(Item(path, "xray", subject, side, report, study, labels, study=study, view=view))
    counts = {"films in the split table": len(rows), "films of these views with a report": len(items)}
    return DatasetIndex(items, LABELS if labeler else (), counts, left_out, headings=sections.MIT_LCP)


def _place(root: Path) -> Callable[[str, str, str], str]:
    """A function that gives the path of a film, by how the copy is laid out: as published, or flattened."""
    for folder in ("files/", ""):
        if any(root.glob(f"{folder}p1[0-9]")):
            return lambda subject, study, film: f"{folder}{subject[:3]}/{subject}/{study}/{film}.jpg"
    for folder in FLAT:
        for suffix in SUFFIXES:
            if any((root / folder).glob(f"*.{suffix}")):
                return lambda subject, study, film: str(Path(folder, f"{film}.{suffix}"))
    raise UserError(
        f"{root} has no X-rays: looked below it for {LAYOUT}. data/README.md links to the trees that are read"
    )


def _labels(root: Path, labeler: str, uncertain: float, blank: str) -> Mapping[str, tuple[float, ...]]:
    rows = dataset_index.table(root, f"{VERSION}-{labeler}.csv", ("study_id", *LABELS))
    return {
        f"s{row['study_id']}": tuple(dataset_index.label(row[name], uncertain, blank) for name in LABELS)
        for row in rows
    }


def _reports(place: Path) -> Callable[[str, str], str | Mapping[str, str] | None]:
    """A function that gives a study's report, raw or in sections; None for a study without one."""
    if place.suffix == ".csv":
        rows = dataset_index.table(place.parent, place.name, ("study", "impression", "findings", "last_paragraph"))
        known = {row.pop("study"): row for row in rows}
        return lambda subject, study: known.get(study)
    if not (place / "files").is_dir():
        raise UserError(
            f"{place} has no files/p10/.../s50000000.txt: unpack mimic-cxr-reports.zip and name its folder by "
            "config.options.reports"
        )

    def of(subject: str, study: str) -> str | Mapping[str, str] | None:
        path = place / "files" / subject[:3] / subject / f"{study}.txt"
        try:
            raw = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        if study in BETWEEN:
            start, end = BETWEEN[study]
            return {"findings": raw[start:end]}
        if study in UNDER:
            headed = sections.headed(raw, sections.MIT_LCP)
            bodies = [body for heading, body in headed if UNDER[study][:6] in heading.lower()]
            return {"findings": bodies[-1] if bodies else ""}
        return raw

    return of
