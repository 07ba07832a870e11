"""Splits the header of an enhanced (multi-frame) CT into one for each slice (functional groups, PS3.3 C.7.6.16)."""

import itertools

import pydicom

from data.readers import dicom_tags
from data.readers.files import BadInput

OF_ALL = ("Modality", "SeriesInstanceUID", "ImageType", "Rows", "Columns")
MAX_FRAMES = 10_000


def split(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """One header a frame, with the elements that a file of a single slice has. Raises BadInput.

    A frame's own groups take precedence over those that all frames share.
    """
    shared, own = (_items(header, name) for name in dicom_tags.GROUPS)
    if not own:
        raise BadInput("enhanced_unsupported", "several frames, and no group that says where each lies")
    if len(own) != header.get("NumberOfFrames") or len(own) > MAX_FRAMES:
        raise BadInput("enhanced_unsupported", f"{len(own)} frames have a place, the header counts otherwise")
    return [_slice(header, number, (groups, *shared)) for number, groups in enumerate(own, start=1)]


def _slice(header: pydicom.Dataset, number: int, groups: tuple[pydicom.Dataset, ...]) -> pydicom.Dataset:
    flat = pydicom.Dataset()
    for name in OF_ALL:
        if name in header:
            flat[name] = header[name]
    flat.InstanceNumber = number
    for name, facts in dicom_tags.OF_FRAMES.items():
        items = itertools.chain(*(_items(group, name) for group in groups))
        item = next(items, pydicom.Dataset())
        for fact in facts:
            if fact in item:
                flat[fact] = item[fact]
    if "FrameType" in flat:
        flat.ImageType = flat.FrameType
    return flat


def _items(dataset: pydicom.Dataset, name: str) -> list[pydicom.Dataset]:
    return list(dataset.get(name) or [])
