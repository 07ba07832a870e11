"""Decodes a DICOM picture, and notices the damage that decoders pass over."""

import logging

import numpy as np
import pydicom
from pydicom import encaps, uid

from data.files import BadInput

END_OF_IMAGE = b"\xff\xd9"  # the last marker of JPEG, JPEG-LS and JPEG 2000 alike
HOLE = bytes(1024)
# It logs a traceback for every decoder that gives up; the ledger has the reason.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def decode(dataset: pydicom.Dataset) -> np.ndarray:
    """Pixel values as stored: (y, x), or (y, x, 3) as RGB. Raises BadInput."""
    _check_stream(dataset)
    try:
        return dataset.pixel_array
    except Exception as error:  # each decoder raises its own
        kind = type(error).__name__
        raise BadInput("dicom_pixels", f"the pixels are truncated, damaged or in an unknown coding ({kind})") from error


def _check_stream(dataset: pydicom.Dataset) -> None:
    """Refuses compressed pixels without their end, or with a hole: OpenJPEG fills in what it misses."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not uid.UID(syntax).is_encapsulated or "JPEG" not in uid.UID(syntax).name:
        return
    try:
        stream = next(encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception as error:
        raise BadInput("dicom_pixels", "the compressed pixels cannot be found") from error
    if not stream.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise BadInput("dicom_pixels", "the compressed pixels end early")
    # Other codings may write a black border as zeros; JPEG 2000 has none to write.
    if "JPEG 2000" in uid.UID(syntax).name and HOLE in stream:
        raise BadInput("dicom_pixels", "the compressed pixels have a hole of zeros")
