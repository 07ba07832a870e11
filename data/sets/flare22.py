"""FLARE22 (MICCAI challenge): abdominal CTs with 13 organs; the 2,000 unlabelled ones are left out."""

from pathlib import Path

from data.manifest import samples
from data.sets import btcv, dataset_index
from data.sets.dataset_index import DatasetIndex, Item

ORGANS = dataset_index.words(
    "liver, right kidney, spleen, pancreas, aorta, inferior vena cava, right adrenal gland, left adrenal gland, "
    "gallbladder, oesophagus, stomach, duodenum, left kidney"
)
TRAIN = ("FLARE22Train/FLARE22Train", "FLARE22Train", "train", ".")
TUNING = ("tuning", "Tuning", "validation", "Validation")
VAL_SHARE = 0.1
LAYOUT = (
    "FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz, FLARE22Train/labels/FLARE22_Tr_0001.nii.gz, and tuning/ alike"
)
EXPECTED = {"labelled CTs": 50, "CTs of the tuning part": 50}


def read(root: Path) -> DatasetIndex:
    """The labelled CTs. Where the tuning part is there with its labels, it is the test split; else all by a hash."""
    train = next((root / folder for folder in TRAIN if (root / folder / "images").is_dir()), root)
    dataset_index.find(train, "images")
    dataset_index.find(train, "labels")
    tuning = next((root / folder for folder in TUNING if (root / folder / "labels").is_dir()), None)
    tested = _cases(tuning) if tuning else []
    items = []
    for image, mask in _cases(train):
        case = mask.name.partition(".")[0]
        split = "" if not tested else "val" if samples.share_of(case) < VAL_SHARE else "train"
        items.append(_item(root, image, mask, split))
    counts = {"labelled CTs": len(items), "CTs of the tuning part": len(tested)}
    items += [_item(root, image, mask, "test") for image, mask in tested]
    return DatasetIndex(items, (), counts, {}, {}, btcv.volume_with_organs, ("organ_mask",), ORGANS)


def _cases(folder: Path) -> list[tuple[Path, Path]]:
    """(CT, mask) of a folder: the CT's name ends in the number of its channel, 0000, as nnU-Net's do."""
    pictures = sorted(path for path in (folder / "images").glob("*_0000.nii*"))
    return [(path, folder / "labels" / path.name.replace("_0000.nii", ".nii")) for path in pictures]


def _item(root: Path, image: Path, mask: Path, split: str) -> Item:
    case = mask.name.partition(".")[0]
    return Item(str(image.relative_to(root)), "ct", case, split, mask=str(mask.relative_to(root)))
