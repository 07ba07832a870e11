"""RAD-ChestCT (Zenodo 6406114): chest CTs at 0.8 mm with 84 abnormalities (Draelos et al., MedIA 2021)."""

import collections
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.manifest.samples import Sample
from data.readers import ct_records, npz, table
from data.readers.files import BadInput, Note
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

PARTS = {"imgtrain": "train", "imgvalid": "val", "imgtest": "test"}
TABLE = "{}_Abnormality_and_Location_Labels.csv"
PATIENTS = "CT_Scan_Metadata_Complete_35747.csv"
FOLDERS = (".", "images", "volumes")
SPACING = (0.8, 0.8, 0.8)  # mm, of every volume
RANGE_HU = (-1000, 1000)  # to which the publishers clipped
LAYOUT = "trn00001.npz ... (in the folder, images/ or volumes/) and imgtrain_Abnormality_and_Location_Labels.csv ..."
EXPECTED = {"CTs": 3_630, "abnormalities": 84}


def read(root: Path) -> DatasetIndex:
    """The CTs that are there, by official part. An abnormality is 1 where the table has it at any location."""
    files = {path.stem: path for folder in FOLDERS[::-1] for path in sorted((root / folder).glob("*.npz"))}
    patient_of = _patients(root)
    items, left_out, names, count = [], collections.Counter(), (), 0
    for part, split in PARTS.items():
        path = dataset_index.find(root, TABLE.format(part))
        header = table.read_columns(path, ("NoteAcc_DEID",))[0]
        columns = [name for name in header if "*" in name]
        abnormalities = tuple(sorted({name.partition("*")[0] for name in columns}))
        if names and abnormalities != names:
            raise UserError(f"{path} has other abnormalities than the tables of the other parts: download it again")
        names = abnormalities
        for row in table.read_published(path, ("NoteAcc_DEID", *columns)):
            count += 1
            scan = row["NoteAcc_DEID"]
            if scan not in files:
                left_out["CTs that are not in the tree"] += 1
                continue
            present = {name.partition("*")[0] for name in columns if float(row[name] or 0) > 0}
            labels = tuple(float(name in present) for name in names)
            file = str(files[scan].relative_to(root))
            items.append(Item(file, "ct", patient_of.get(scan, scan), split, labels=labels))
    facts = {"clipped_hu": list(RANGE_HU), "spacing_mm": list(SPACING)}
    counts = {"CTs": count, "abnormalities": len(names)}
    return DatasetIndex(items, names, counts, left_out, read=volume, facts=facts)


def volume(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """A volume of the publishers' preprocessing: (slice, row, column) int16 HU, the topmost slice first."""
    hu = npz.read_array(sample.file, "ct", 3)
    if hu.min() == hu.max():
        raise BadInput("constant_volume", "every voxel has the same value")
    if hu.min() < RANGE_HU[0] - 24 or hu.max() > RANGE_HU[1] + 24:
        raise BadInput("not_hu", "voxels beyond the range to which the publishers clipped")
    return ct_records.of_array(hu[::-1].astype(np.float32), SPACING, grid)


def _patients(root: Path) -> dict[str, str]:
    """The patient of each CT, where the set's table of headers is there; else each CT counts as a patient."""
    if not (root / PATIENTS).exists():
        return {}
    rows = dataset_index.table(root, PATIENTS, ("NoteAcc_DEID", "MRN_DEID"))
    return {row["NoteAcc_DEID"]: row["MRN_DEID"] for row in rows if row["MRN_DEID"]}
