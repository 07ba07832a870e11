"""CT-RATE: non-contrast chest CTs with findings, impression and 18 labels (arXiv 2403.17834)."""

import collections
import re
from collections.abc import Mapping
from pathlib import Path

from data.errors import UserError
from data.manifest import samples
from data.manifest.samples import Sample
from data.readers import ct_records
from data.readers.files import Note
from data.readers.scan_table import TableFacts
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

LABELS = dataset_index.words(
    "Medical material, Arterial wall calcification, Cardiomegaly, Pericardial effusion, "
    "Coronary artery wall calcification, Hiatal hernia, Lymphadenopathy, Emphysema, Atelectasis, Lung nodule, "
    "Lung opacity, Pulmonary fibrotic sequela, Pleural effusion, Mosaic attenuation pattern, "
    "Peribronchial thickening, Consolidation, Bronchiectasis, Interlobular septal thickening"
)
# Folder of the volumes -> names that its tables use ("validation" or "valid"), our split.
PARTS = {"train": (("train",), "train"), "valid": (("validation", "valid"), "test")}
FIXED = "_fixed"  # the release whose volumes hold Hounsfield units, and headers that say how they lie
GEOMETRY = ("XYSpacing", "ZSpacing", "ImageOrientationPatient", "ImagePositionPatient")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
LAYOUT = (
    "[dataset/]train_fixed/train_1/train_1_a/train_1_a_1.nii.gz, the same in train/, valid_fixed/ and valid/, or all "
    "volumes in one of these folders or beside the tables' folders"
)
EXPECTED = {"patients": 21_304, "scans": 25_692, "volumes": 50_188}


def read(root: Path, *, reconstructions: str, val_share: float) -> DatasetIndex:
    """Volumes of the parts that are in the tree; "valid" is the test split, val a share of the training patients.

    One part is enough, whole or not. A volume that lies in `train_fixed` and in `train` is taken from the former.

    `reconstructions` "first" takes one volume a scan, "all" every kernel, with the same report.
    """
    dataset_index.check_option("reconstructions", reconstructions, ("all", "first"))
    base = dataset_index.inner(root, "dataset")
    items, left_out, of_folder = [], collections.Counter(), collections.Counter()
    scans, patients, count = set(), set(), 0
    places = {part: volumes_of for part in PARTS if (volumes_of := _places(base, part))}
    if not places:
        raise UserError(
            f"{root} has no volumes: looked below it for {LAYOUT}. data/README.md links to the trees that are read"
        )
    for part, volume_at in places.items():
        tables, split = PARTS[part]
        names = (f"radiology_text_reports/{name}_reports.csv" for name in tables)
        reports = dataset_index.table(base, names, ("VolumeName", "Findings_EN", "Impressions_EN"))
        labels = _labels(base, part)
        facts = _facts(base, tables, needed=any(folder != part + FIXED for folder, _ in volume_at.values()))
        no_chest = _no_chest(base, part)
        taken = set()  # scans with a volume in the set
        for row in sorted(reports, key=lambda row: row["VolumeName"]):
            name = row["VolumeName"]
            patient, scan = name.rsplit("_", 2)[0], name.rsplit("_", 1)[0]
            count, first = count + 1, scan not in taken
            patients.add(patient)
            scans.add(scan)
            if name in no_chest:
                left_out["volumes of other parts of the body (no_chest)"] += 1
            elif reconstructions == "first" and not first:
                left_out["further reconstructions"] += 1
            elif name not in volume_at:
                left_out["volumes that are not in the tree"] += 1
            else:
                taken.add(scan)
                folder, path = volume_at[name]
                of_folder[f"volumes taken from {folder}"] += 1
                side = "val" if split == "train" and samples.share_of(patient) < val_share else split
                report = {"findings": row["Findings_EN"], "impression": row["Impressions_EN"]}
                known = labels.get(name, (float("nan"),) * len(LABELS))
                place = str(path.relative_to(root))
                of_table = facts.get(name, TableFacts())
                if folder == part + FIXED:  # its headers are filled in
                    of_table = TableFacts(of_table.rescale)
                of = {"study": scan, "series": name.removesuffix(".nii.gz"), "annotation": of_table}
                items.append(Item(place, "ct", patient, side, report, scan, known, **of))
    counts = {"patients": len(patients), "scans": len(scans), "volumes": count}
    counts |= of_folder if len(of_folder) > len(places) else {}  # a part comes from two folders
    return DatasetIndex(items, LABELS, counts, left_out, read=volume)


def volume(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """A volume in Hounsfield units, from the first release (slope, intercept and geometry in a table) or a later one.

    Raises BadInput: `double_rescale` for a volume that another script has rescaled already.
    """
    return ct_records.read(sample.file, grid, note, facts=sample.annotation).fields


def _labels(root: Path, part: str) -> dict[str, tuple[float, ...]]:
    rows = dataset_index.table(root, f"multi_abnormality_labels/{part}_predicted_labels.csv", ("VolumeName", *LABELS))
    return {row["VolumeName"]: tuple(dataset_index.label(row[name], float("nan")) for name in LABELS) for row in rows}


def _places(base: Path, part: str) -> dict[str, tuple[str, Path]]:
    """By its name every volume of a part, with the folder that it is counted under and its path."""
    places: dict[str, tuple[str, Path]] = {}
    for folder in (part + FIXED, part):
        for path in sorted((base / folder).rglob("*.nii.gz")):
            places.setdefault(path.name, (folder, path))
    for path in sorted(base.glob(f"{part}_*.nii.gz")):
        places.setdefault(path.name, (base.name, path))
    return places


def _facts(root: Path, tables: tuple[str, ...], *, needed: bool) -> dict[str, TableFacts]:
    """What the table says of volumes, by their names; it may lack where all volumes are of the later release."""
    names = [f"metadata/{name}_metadata.csv" for name in tables]
    if not needed and not any((root / name).exists() for name in names):
        return {}
    rows = dataset_index.table(root, names, ("VolumeName", "RescaleSlope", "RescaleIntercept"), optional=GEOMETRY)
    return {row["VolumeName"]: _of_row(row) for row in rows}


def _of_row(row: Mapping[str, str]) -> TableFacts:
    rescale = (row["RescaleSlope"], row["RescaleIntercept"])
    in_plane, between, orientation, position = (
        _numbers(row.get(name, ""), count) for name, count in zip(GEOMETRY, (2, 1, 6, 3), strict=True)
    )
    spacing = (*in_plane, *between) if in_plane and between and min(*in_plane, *between) > 0 else ()
    slope_and_intercept = (float(rescale[0]), float(rescale[1])) if all(rescale) else None
    return TableFacts(slope_and_intercept, spacing, orientation, position)


def _numbers(cell: str, count: int) -> tuple[float, ...]:
    """The numbers of a cell such as "[0.7, 0.7]", empty unless it has so many."""
    numbers = tuple(map(float, NUMBER.findall(cell)))
    return numbers if len(numbers) == count else ()


def _no_chest(root: Path, part: str) -> set[str]:
    """Names of CTs of other parts of the body, where the release lists them."""
    lists = (root / "metadata" / f"no_chest_{part}.txt", root / f"no_chest_{part}.txt")
    lines = [line for path in lists if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]
    return {line.strip().rpartition("/")[2] for line in lines}
