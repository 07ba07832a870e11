"""PadChest (BIMCV, Alicante): X-rays with Spanish reports and findings (Bustos et al., MedIA 2020)."""

import collections
from pathlib import Path

from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item

TABLES = (
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    "PADCHEST_chest_x_ray_images_labels_160K.csv",
    "labels_csv/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
)
COLUMNS = ("ImageID", "ImageDir", "PatientID", "ReportID", "Report", "Projection", "Pediatric", "Labels")
FOLDERS = ("images", "images-224", "image_zips", ".")  # in which films lie, or their folders 0 to 54
CHILD = "PED"
LAYOUT = (
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz] and 0/<ImageID>.png ... 54/, or all films in images/"
)
EXPECTED = {"films": 160_868, "patients": 67_625, "reports": 109_931}


def read(root: Path, *, views: str, labels: str, children: bool) -> DatasetIndex:
    """X-rays of `views` (names of projections: PA, AP, L, AP_horizontal, COSTAL) with a report; splits by patient.

    `labels` names findings to store, comma-separated: 1 where the table names it, else 0, and unknown where it says
    "unchanged".
    """
    shown, names = set(dataset_index.words(views)), dataset_index.words(labels)
    files: dict[str, Path] = {}
    for folder in FOLDERS:
        for pattern in ("*.png", "*/*.png"):
            for path in (root / folder).glob(pattern):
                files.setdefault(path.name, path)
    items, left_out, patients, reports = [], collections.Counter(), set(), set()
    rows = dataset_index.table(root, TABLES, COLUMNS)
    for row in rows:
        patients.add(row["PatientID"])
        reports.add(row["ReportID"])
        if row["Projection"] not in shown:
            left_out[f"films of other projections than {views}"] += 1
        elif row["Pediatric"] == CHILD and not children:
            left_out["films of children"] += 1
        elif row["ImageID"] not in files:
            left_out["films that are not in the tree"] += 1
        else:
            path = str(files[row["ImageID"]].relative_to(root))
            values = dataset_index.named(row["Labels"], names)
            report = {"findings": row["Report"]}
            of = {"study": row["ReportID"], "view": row["Projection"]}
            items.append(Item(path, "xray", row["PatientID"], "", report, row["ReportID"], values, **of))
    counts = {"films": len(rows), "patients": len(patients), "reports": len(reports)}
    return DatasetIndex(items, names, counts, left_out)
