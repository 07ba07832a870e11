"""BIMCV-COVID19 (positive and negative cohorts): chest CTs, or X-rays, with Spanish reports."""

import collections
import dataclasses
import re
from pathlib import Path

from data.errors import UserError
from data.manifest import samples
from data.manifest.samples import Sample
from data.readers import dicom_json, geometry, xrays
from data.readers.files import Note
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

TABLES = (
    "labels_covid19_posi.tsv",
    "labels_covid_posi.tsv",
    "Labels_covid_NEG_JAN21.tsv",
    "labels_SARS-cov-2_nega.tsv",
)
LAYOUT = "sub-S03044/ses-E06147/mod-ct/sub-S03044_ses-E06147_run-1_bp-chest_ct.nii.gz, in the folder or up to two below"
DEPTHS = ("", "*/", "*/*/")  # where archives unpack to: all into one folder, or each into its own, in one of its cohort
SERIES = ("all", "first", "largest")
NAME = re.compile(r"(?P<patient>sub-[^_]+)_(?P<session>ses-[^_]+)_")
FRONTAL = re.compile(r"_vp-(pa|ap)")
GREYS = (
    "stored values of X-rays are shown by slope and intercept, the first VOI LUT or window and the polarity in the "
    ".json beside them, as those of DICOM; without one by percentiles, bright where they are high"
)
EXPECTED = {"sessions with a chest CT": "7,918 CT studies in iterations 1 to 3"}


@dataclasses.dataclass(frozen=True)
class Header:
    """The JSON of an X-ray's DICOM header; what shows that it has not changed is its state alone, as of a picture."""

    path: Path = dataclasses.field(repr=False)
    state: str


def read(root: Path, *, modality: str, labels: str, series: str) -> DatasetIndex:
    """CTs (`modality` "ct"), frontal X-rays ("xray") or both whose session has a report; splits by patient.

    `labels` names findings of the labels table to store, comma-separated: 1 where the table names it, else 0, and
    unknown where the label is "unchanged". `series` is what a session with several pictures of a modality gives: "all",
    the "first" by name or the "largest" file, which has the most slices.
    """
    dataset_index.check_option("series", series, SERIES)
    kinds = set(dataset_index.words(modality))
    if not kinds or not kinds <= {"ct", "xray"}:
        raise UserError(f"config.options.modality is {modality!r}: ct, xray or ct,xray")
    names = dataset_index.words(labels)
    tables = _tables(root)
    columns = ("PatientID", "ReportID", "Report", *(["Labels"] if names else []))
    reports: dict[tuple[str, str], dict[str, str]] = {}
    for name in tables:
        for row in dataset_index.table(root, name, columns, "\t"):
            reports.setdefault((row["PatientID"], row["ReportID"]), row)
    items, left_out, used, scanned = [], collections.Counter(), set(), set()
    files = {}
    for path in sorted(path for depth in DEPTHS for path in root.glob(f"{depth}sub-*/ses-*/mod-*/*")):
        files.setdefault(path.name, path)  # a picture that two archives hold, or links to, is one
    for path in files.values():
        kind = "ct" if path.name.endswith(".nii.gz") else "xray" if path.suffix == ".png" else ""
        place = NAME.match(path.name)
        if kind not in kinds or not place:
            continue
        if kind == "ct" and "chest_ct" not in path.name:
            left_out["CTs of other parts of the body"] += 1
            continue
        if kind == "xray" and not FRONTAL.search(path.name):
            left_out["films that are not frontal, or of unknown view"] += 1
            continue
        patient, session = place["patient"], place["session"]
        scanned |= {(patient, session)} if kind == "ct" else set()
        row = reports.get((patient, session))
        if row is None:
            left_out["pictures of sessions without a report"] += 1
            continue
        used.add((patient, session))
        values = dataset_index.named(row["Labels"], names) if names else ()
        report = {"findings": row["Report"]}
        file = str(path.relative_to(root))
        of = {"study": session}
        if kind == "xray":
            of |= {"view": FRONTAL.search(path.name)[1], "annotation": _header(path)}
        items.append(Item(file, kind, patient, "", report, session, values, **of))
    items, left_out["further pictures of a session"] = _of_sessions(root, items, series)
    left_out["reports without a picture"] = len(reports.keys() - used)
    counts = {"reports": len(reports), "sessions with a chest CT": len(scanned), "pictures with a report": len(items)}
    facts = {}
    if "xray" in kinds:
        counts["X-rays without a .json, of unknown polarity"] = sum(_is_bare(item) for item in items)
        facts["greys"] = GREYS
    return DatasetIndex(items, names, counts, left_out, read=picture, facts=facts)


def picture(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """A CT, or an X-ray as the header beside it shows its stored values. Raises BadInput."""
    if sample.annotation is None:
        return dataset_index.PLAIN(sample, modality, note, grid)
    header = dicom_json.read(sample.annotation.path)
    grey = str(header.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    film = xrays.read_film(sample.file, note, header=header if grey else None)
    return {"image": geometry.canonical_xray(film.pixels, grid.film_size)}


def _header(picture: Path) -> Header | None:
    """The header beside an X-ray; None where there is none, or a link to it leads nowhere."""
    path = picture.with_suffix(".json")
    return Header(path.resolve(), samples.state(path)) if path.is_file() else None


def _is_bare(item: Item) -> bool:
    return item.modality == "xray" and item.annotation is None


def _tables(root: Path) -> list[str]:
    """The labels tables below `root`, one a cohort, whichever folder its archive was unpacked into."""
    names = [f"derivatives/labels/{name}" for name in TABLES]
    places = [path for depth in DEPTHS for name in names for path in sorted(root.glob(depth + name))]
    if not places:
        dataset_index.find(root, *names)  # raises, and names what is there
    return [str(path.relative_to(root)) for path in places]


def _of_sessions(root: Path, items: list[Item], series: str) -> tuple[list[Item], int]:
    """The items that `series` takes, and how many it leaves out."""
    if series == "all":
        return items, 0
    by_session: dict[tuple[str, str, str], list[Item]] = collections.defaultdict(list)
    for item in items:
        by_session[item.patient, item.report_id, item.modality].append(item)
    size = (lambda item: (root / item.path).stat().st_size) if series == "largest" else lambda item: 0
    chosen = [max(of_session, key=size) for of_session in by_session.values()]  # of equals the first
    return chosen, len(items) - len(chosen)
