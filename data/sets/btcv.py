"""BTCV (Synapse syn3193805): abdominal CTs with 13 organs."""

from pathlib import Path

from data.manifest.samples import Sample
from data.readers import ct_records
from data.readers.files import Note
from data.record_grid import RecordGrid
from data.sets import dataset_index
from data.sets.dataset_index import DatasetIndex, Item
from data.source import Example

ORGANS = dataset_index.words(
    "spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, inferior vena cava, "
    "portal and splenic veins, pancreas, right adrenal gland, left adrenal gland"
)
LAYOUT = "[Abdomen/]RawData/Training/{img,label}/img0001.nii.gz, or MONAI's {imagesTr,labelsTr}/img0001.nii.gz"
PARTS = {"images": ("Training/img", "imagesTr"), "labels": ("Training/label", "labelsTr")}
UNLABELLED = ("Testing/img", "imagesTs")
TEST = tuple(f"{number:04d}" for number in range(35, 41))  # MONAI's validation cases, on which papers report
EXPECTED = {"labelled CTs": 30, "unlabelled CTs": 20}
PUBLISHED = {"train": 24, "test": 6}


def read(root: Path) -> DatasetIndex:
    """The labelled CTs: 24 to train on, MONAI's six (0035 to 0040) to test on."""
    root_of = dataset_index.inner(dataset_index.inner(root, "Abdomen"), "RawData")
    pictures = sorted(dataset_index.find(root_of, *PARTS["images"]).glob("img*.nii.gz"))
    masks = dataset_index.find(root_of, *PARTS["labels"]).relative_to(root)
    items = []
    for path in pictures:
        number = path.name[3:7]
        split = "test" if number in TEST else "train"
        items.append(Item(str(path.relative_to(root)), "ct", number, split, mask=f"{masks}/label{number}.nii.gz"))
    unlabelled = sum(len(list(root_of.glob(f"{folder}/img*.nii.gz"))) for folder in UNLABELLED)
    counts = {"labelled CTs": len(items), "unlabelled CTs": unlabelled}
    left_out = {"unlabelled CTs": unlabelled}
    return DatasetIndex(items, (), counts, left_out, PUBLISHED, volume_with_organs, ("organ_mask",), ORGANS)


def volume_with_organs(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """A CT and its organ mask, with the set's own numbers. Raises BadInput."""
    return ct_records.read_with_mask(sample.file, ct_records.MaskFile(sample.mask, "organ_mask"), grid, note)
