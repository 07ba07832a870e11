"""Reads one chest X-ray, PNG, JPEG or DICOM, to an 8-bit image that is bright where the body is dense."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pydicom

from data.readers import dicom_film, film, geometry, pictures
from data.readers.files import BadInput, Note, ignore_note, read_bytes
from data.readers.film import Film

MOST_LABELS = 64  # of a mask
NEIGHBOURS = np.ones((3, 3), np.uint8)
RULES = {
    "grey": "8-bit values are kept; deeper ones run linearly from percentile 0.5 to 99.5 of the pixels to 0-255",
    "colour": "equal channels are one, others become luma 0.299 R + 0.587 G + 0.114 B; alpha lies over black",
    "exif": "the EXIF orientation is applied",
    "dicom": "modality LUT, then the first VOI LUT or window, or percentiles where there is none or it leaves "
    "nothing to see; MONOCHROME1 is inverted after it; pixel padding is black",
    "resize": "longest side {size}, area mean when shrinking, linear when growing, centred on zeros",
}


def rules(size: int) -> dict[str, str]:
    """How X-rays of `size` pixels come to be, for the contract."""
    return {name: rule.format(size=size) for name, rule in RULES.items()}


def read_xray(path: Path, size: int = geometry.XRAY_SIZE) -> np.ndarray:
    """The X-ray of a file as uint8 (size, size). Raises BadInput."""
    return geometry.canonical_xray(read_full_xray(path), size)


def read_full_xray(path: Path, note: Note = ignore_note) -> np.ndarray:
    """The X-ray of a file as uint8 (y, x), as it is hung; `note` gets what was tolerated. Raises BadInput."""
    return read_film(path, note).pixels


def read_film(
    path: Path, note: Note = ignore_note, *, by_largest: bool = False, header: pydicom.Dataset | None = None
) -> Film:
    """The X-ray of a file, and how it lies on the file's own pixels: for masks and points of these. Raises BadInput.

    `by_largest`: the greys of a DICOM file are its stored values over their largest, whatever its window. `header`: the
    DICOM elements by which the stored values in a PNG, which has none itself, are shown.
    """
    data = read_bytes(path)
    if data[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return dicom_film.read(data, note, by_largest=by_largest)
    show = pictures.eight_bits if header is None else functools.partial(dicom_film.greys_of, header=header, note=note)
    return pictures.read(data, path.suffix.lower().lstrip("."), note, show)


def read_xray_mask(path: Path, film_: film.Film) -> np.ndarray:
    """A mask of whole numbers (y, x) of an X-ray's stored pixels, on the film; 0 is nothing. Raises BadInput."""
    pixels = pictures.decode(read_bytes(path))[0]
    mask = film_.hang(pixels if pixels.ndim == 2 else pixels[..., :3].max(-1))
    if not np.issubdtype(mask.dtype, np.integer):
        raise BadInput("mask_values", "the mask does not hold whole numbers")
    return (mask > mask.max() / 2).astype(np.uint8) if _has_soft_edges(mask) else mask


def _has_soft_edges(mask: np.ndarray) -> bool:
    """Whether a mask (y, x) outlines one thing with values between: JPEG, drawn or shrunk with smooth edges.

    It has many values, or such as lie along edges alone: a label of its own fills 3 x 3 pixels somewhere.
    """
    values = np.unique(mask)
    if len(values) > MOST_LABELS:
        return True
    if len(values) < 3 or values[-1] <= np.iinfo(mask.dtype).max // 2:  # labels are small numbers
        return False
    labels = np.searchsorted(values, mask).astype(np.uint8)
    filled = labels[cv2.erode(labels, NEIGHBOURS) == cv2.dilate(labels, NEIGHBOURS)]
    return not set(values[np.unique(filled)].tolist()) - {0, values[-1].item()}
