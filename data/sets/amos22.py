"""AMOS22 (Zenodo 7262581): abdominal CTs with 15 organs; the MR scans among them are left out."""

import re
from pathlib import Path

from data.sets import btcv, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

ORGANS = dataset_index.words(
    "spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, inferior vena cava, pancreas, "
    "right adrenal gland, left adrenal gland, duodenum, bladder, prostate or uterus"
)
PARTS = {"Tr": "train", "Va": "val", "Ts": "test"}
LAST_CT = 500  # 501 to 600 are MR
PUBLISHED = {"train": 200, "val": 100, "test": 200}
LAYOUT = "[amos22/]{imagesTr,labelsTr,imagesVa,labelsVa}/amos_0001.nii.gz"
EXPECTED = {"CTs of Tr": 200, "CTs of Va": 100, "CTs of Ts": 200}


def read(root: Path) -> DatasetIndex:
    """The labelled CTs by official part. The validation part is the test split where the test part has no labels."""
    root_of = dataset_index.inner(root, "amos22")
    tested = any(root_of.glob("labelsTs/*.nii.gz"))
    items, counts, left_out = [], {}, {"scans beyond id 500 (MR)": 0, "unlabelled CTs": 0}
    for part, split in PARTS.items():
        counts[f"CTs of {part}"] = 0
        for path in sorted(dataset_index.find(root_of, f"images{part}").glob("amos_*.nii.gz")):
            number = int(re.sub(r"\D", "", path.name.partition(".")[0]))
            if number > LAST_CT:
                left_out["scans beyond id 500 (MR)"] += 1
                continue
            counts[f"CTs of {part}"] += 1
            mask = root_of / f"labels{part}" / path.name
            if not mask.exists() and part == "Ts":
                left_out["unlabelled CTs"] += 1
                continue
            side = "test" if part == "Va" and not tested else split
            items.append(Item(str(path.relative_to(root)), "ct", str(number), side, mask=str(mask.relative_to(root))))
    facts = {"test": "imagesTs" if tested else "imagesVa, for the test part has no labels here"}
    published = PUBLISHED if tested else {}
    return DatasetIndex(
        items, (), counts, left_out, published, btcv.volume_with_organs, ("organ_mask",), ORGANS, facts=facts
    )
