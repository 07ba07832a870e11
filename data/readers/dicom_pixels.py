"""Decodes the pixels of a DICOM file and notices damage that decoders ignore."""

import logging
from pathlib import Path

import numpy as np
import pydicom
from pydicom import encaps, uid
from pydicom.pixels import pixel_array
from pydicom.pixels.utils import get_expected_length

from data.readers import dicom_bits, dicom_decoders, dicom_tags, jpeg
from data.readers.files import BadInput

HOLE = bytes(1024)
# It logs a traceback for every decoder that fails; the ledger has the reason.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def decode(dataset: pydicom.Dataset, frame: int | None = None) -> np.ndarray:
    """Pixel values as stored: (y, x), or (y, x, 3) as RGB; `frame` counts from 0. Raises BadInput."""
    precision = 0
    syntax = uid.UID(dataset.file_meta.get("TransferSyntaxUID") or "")
    try:
        if syntax.is_transfer_syntax and syntax.is_encapsulated:
            dicom_decoders.check(syntax)
            precision = _check_stream(dataset, syntax, frame or 0)
            # Whole words: decoders cut the values out of them without a look at HighBit or at the other bits.
            words = dicom_decoders.pixels(dataset, syntax, frame, correct_unused_bits=False)
        elif len(dataset.PixelData) < get_expected_length(dataset):
            raise BadInput("dicom_truncated", "the file holds fewer pixels than its header says")
        else:
            words = pixel_array(dataset, index=frame, correct_unused_bits=False)
        return dicom_bits.values(words, dataset, precision)
    except BadInput:
        raise
    except Exception as error:  # each decoder raises its own
        raise BadInput(
            "dicom_pixels", f"the pixels are damaged or in an unknown coding ({type(error).__name__})"
        ) from error


def plain(path: Path, header: pydicom.Dataset, place: dicom_tags.Place | None) -> np.ndarray | None:
    """What `decode` gives for a file of one uncompressed grey picture of 16 bits, read from its place in the file.

    None for every other file, and for one whose header or length leaves a doubt: `decode` knows the reason.
    Raises BadInput for words that hold other bits.
    """
    try:
        rows, columns, signed = int(header.Rows), int(header.Columns), int(header.PixelRepresentation)
        usual = (
            header.BitsAllocated == 16
            and header.SamplesPerPixel == 1
            and signed in (0, 1)
            and 1 <= int(header.BitsStored) <= 16
            and str(header.PhotometricInterpretation).startswith("MONOCHROME")
        )
    except (AttributeError, TypeError, ValueError):
        return None
    if not usual or place is None or not 0 < 2 * rows * columns <= place.length:
        return None
    words = np.fromfile(path, "<i2" if signed else "<u2", rows * columns, offset=place.start)
    return dicom_bits.values(words.reshape(rows, columns), header) if words.size == rows * columns else None


def _check_stream(dataset: pydicom.Dataset, syntax: uid.UID, frame: int) -> int:
    """The bits of a compressed sample, 0 where the coding has none of its own.

    Refuses pixels without their end, of another size or sign, or with a hole: OpenJPEG fills what is missing.
    """
    if "JPEG" not in syntax.name:
        return 0
    try:
        count = int(dataset.get("NumberOfFrames") or 1)
        stream = encaps.get_frame(dataset.PixelData, frame, number_of_frames=count)
    except Exception as error:
        raise BadInput("dicom_truncated", "the compressed pixels cannot be found") from error
    facts = jpeg.stream_facts(stream)
    if not facts.ended:
        raise BadInput("dicom_truncated", "the compressed pixels end early")
    # A decoder allocates the size in the stream; only that of the header has been checked.
    if facts.height and (facts.height, facts.width) != (dataset.Rows, dataset.Columns):
        raise BadInput("dicom_pixels", "the size of the compressed image differs from its header's")
    if facts.signed and not dataset.PixelRepresentation:
        raise BadInput("bits_conflict", "the compressed samples have a sign, by PixelRepresentation they have none")
    if facts.precision > dataset.BitsAllocated:
        raise BadInput("bits_conflict", "the compressed samples are wider than BitsAllocated")
    # Other codings may write a black border as zeros; JPEG 2000 has none to write.
    if "JPEG 2000" in syntax.name and HOLE in stream:
        raise BadInput("dicom_pixels", "the compressed pixels have a hole of zeros")
    return facts.precision
