"""The smallest valid DICOM picture, for tests to change and to damage."""

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
