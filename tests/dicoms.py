"""The smallest valid DICOM picture, and the smallest enhanced CT, for tests to change and to damage."""

from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset


def dataset(pixels: np.ndarray, **elements: Any) -> pydicom.Dataset:
    """One uncompressed picture of 16 bits; `elements` add to the usual ones or replace them, None leaves one out."""
    values = {
        "SOPClassUID": pydicom.uid.CTImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(pixels.dtype == np.int16),
        "PixelData": pixels.tobytes(),
        **elements,
    }
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    data.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    return data


def enhanced(pixels: np.ndarray, positions: list[list[float]], **elements: Any) -> pydicom.Dataset:
    """An enhanced CT: (frame, row, column), each frame's ImagePositionPatient, and what `dataset` takes.

    `shared` and `own` are functional groups, {sequence: {element: value}}, for all frames and a list for each.
    """
    shared, own = elements.pop("shared", {}), elements.pop("own", [{}] * len(positions))
    data = dataset(
        pixels,
        SOPClassUID=pydicom.uid.EnhancedCTImageStorage,
        Modality="CT",
        SeriesInstanceUID="1.2.3",
        NumberOfFrames=len(positions),
        **elements,
    )
    data.SharedFunctionalGroupsSequence = [_groups(shared)]
    data.PerFrameFunctionalGroupsSequence = [
        _groups({"PlanePositionSequence": {"ImagePositionPatient": list(position)}, **groups})
        for position, groups in zip(positions, own, strict=True)
    ]
    return data


def _groups(groups: dict[str, dict[str, Any]]) -> pydicom.Dataset:
    out = pydicom.Dataset()
    for name, elements in groups.items():
        item = pydicom.Dataset()
        for element, value in elements.items():
            setattr(item, element, value)
        setattr(out, name, [item])
    return out
