"""Takes pixel values out of the words that a DICOM file stores (PS3.5 8.1.1): which bits of each word are the value."""

import numpy as np
import pydicom
from pydicom.tag import Tag

from data.readers.files import BadInput

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
OVERLAY_BITS, OVERLAY_POSITION = 0x0100, 0x0102  # elements of each group
OVERLAYS = [Tag(group, element) for group in OVERLAY_GROUPS for element in (OVERLAY_BITS, OVERLAY_POSITION)]


def values(words: np.ndarray, header: pydicom.Dataset, precision: int = 0) -> np.ndarray:
    """The pixel values of words, in the words' type; `precision` is that of a compressed stream in bits, 0 for none.

    Raises BadInput where the other bits of the words are neither zero, nor copies of the sign, nor an overlay that the
    header names: then BitsStored or HighBit is wrong, and both ways to read the words would be a guess.
    """
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    allocated = 8 * words.dtype.itemsize
    stored = int(header.BitsStored)
    # A high bit below its own value's width names no bits at all: readers take the lowest.
    high = max(int(header.get("HighBit", stored - 1)), stored - 1)
    if precision and precision <= high:  # the stream holds the values, not the words around them
        high = stored - 1
    if not 1 <= stored <= high + 1 <= allocated:
        raise BadInput("bits_conflict", f"BitsStored {stored} and HighBit {high} do not fit words of {allocated} bits")
    if not _has_other_bits(words, stored, high):
        if words.dtype.kind == "u" and high == stored - 1:
            return words
    else:
        _check_other_bits(words, stored, high, _overlay_bits(header, stored, high))
    if stored == allocated:
        return words
    return np.right_shift(np.left_shift(words, allocated - 1 - high), allocated - stored)


def _has_other_bits(words: np.ndarray, stored: int, high: int) -> bool:
    """Whether any word has a bit set that is not its value's: one pass, where most films and slices have none."""
    if stored == 8 * words.dtype.itemsize or not words.size:
        return False
    own = ((1 << stored) - 1) << (high + 1 - stored)
    return bool(int(np.bitwise_or.reduce(words.view(f"u{words.dtype.itemsize}"), axis=None)) & ~own)


def _check_other_bits(words: np.ndarray, stored: int, high: int, overlays: int) -> None:
    allocated = 8 * words.dtype.itemsize
    bits = words.view(f"u{words.dtype.itemsize}")
    own = ((1 << stored) - 1) << (high + 1 - stored)
    other = ((1 << allocated) - 1) & ~own & ~overlays
    stray = bits & bits.dtype.type(other)
    if not stray.any():
        return
    if words.dtype.kind == "i":
        above = other & ~((1 << (high + 1)) - 1)
        sign = np.where((bits >> bits.dtype.type(high)) & 1, bits.dtype.type(above), bits.dtype.type(0))
        if np.array_equal(stray, sign):
            return
    raise BadInput("bits_conflict", f"words hold more than the {stored} bits up to bit {high} that the header names")


def _overlay_bits(header: pydicom.Dataset, stored: int, high: int) -> int:
    """The bits of a word that retired overlays occupy."""
    mask = 0
    for group in OVERLAY_GROUPS:
        position, bits = (header.get(Tag(group, name)) for name in (OVERLAY_POSITION, OVERLAY_BITS))
        if position is None or bits is None or int(bits.value or 1) == 1:  # one of its own, not in the words
            continue
        if not high + 1 - stored <= int(position.value or 0) <= high:
            mask |= 1 << int(position.value or 0)
    return mask


def in_values(number: int, values_: np.ndarray) -> int:
    """A number of the header that is a pixel value: files give those of signed pixels without their sign, too."""
    size, signed = 8 * values_.dtype.itemsize, values_.dtype.kind == "i"
    if signed and number >= 1 << (size - 1):
        return number - (1 << size)
    return number + (1 << size) if number < 0 and not signed else number


def padding(stored: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """Where pixel values (y, x) are padding, bool. Raises BadInput."""
    low = header.get("PixelPaddingValue")
    if low is None or low == "" or stored.ndim != 2:
        return np.zeros(stored.shape[:2], bool)
    high = header.get("PixelPaddingRangeLimit")
    try:
        limits = sorted(in_values(int(number), stored) for number in (low, low if high in (None, "") else high))
    except (TypeError, ValueError) as error:
        raise BadInput("dicom_damaged", "PixelPaddingValue is not a number") from error
    return (stored >= limits[0]) & (stored <= limits[1])
