"""ReXGradient-160K (Hugging Face rajpurkarlab/ReXGradient-160K): X-rays with English reports of 79 sites."""

import collections
import json
from pathlib import Path

from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

PARTS = {"train": "train", "valid": "val", "test": "test"}
TABLE = "{}_metadata_view_position.json"
FOLDERS = ("metadata/", "download/metadata/", "")
LAYOUT = "metadata/{train,valid,test}_metadata_view_position.json and deid_png/<patient>/<accession>/studies/..."
EXPECTED = {"studies": 160_000, "patients": 109_487, "films": 273_004}


def read(root: Path, *, views: str) -> DatasetIndex:
    """X-rays of `views` (PA, AP, LATERAL, ..., UNKNOWN) by official split, with findings and impression."""
    shown = set(dataset_index.words(views.upper()))
    items, left_out, patients = [], collections.Counter(), set()
    studies = films = 0
    for part, split in PARTS.items():
        path = dataset_index.find(root, *(folder + TABLE.format(part) for folder in FOLDERS))
        for key, study in json.loads(path.read_text(encoding="utf-8")).items():
            studies += 1
            patients.add(str(study["PatientID"]))
            report = {name.lower(): str(study.get(name) or "") for name in ("Findings", "Impression")}
            positions = study.get("ImageViewPosition") or []
            for at, picture in enumerate(study.get("ImagePath") or []):
                films += 1
                view = str((positions[at] if at < len(positions) else None) or "UNKNOWN").upper()
                if view not in shown:
                    left_out[f"films of other views than {views}"] += 1
                    continue
                place = picture.removeprefix("../")  # the table's paths start from its folder
                items.append(Item(place, "xray", str(study["PatientID"]), split, report, key, study=key, view=view))
    return DatasetIndex(items, (), {"studies": studies, "patients": len(patients), "films": films}, left_out)
