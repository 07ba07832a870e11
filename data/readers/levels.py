"""The few values that the pixels of a picture have: what is computed of each pixel is computed once for each value."""

import dataclasses

import cv2
import numpy as np

from data.readers import greys

WORDS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Levels:
    """`values` (k,) are those that occur, each once, and `counts` (k,) says how often."""

    values: np.ndarray
    counts: np.ndarray
    _pixels: np.ndarray  # numbers (y, x) of places in a table of `_size`, or of values themselves
    _places: np.ndarray  # (k,) of the values in that table
    _size: int

    def picture(self, shown: np.ndarray) -> np.ndarray:
        """The picture (y, x) in which each value is what `shown` (k,) has in its place."""
        table = np.zeros(self._size, shown.dtype)
        table[self._places] = shown
        picture = np.empty(self._pixels.shape, shown.dtype)
        for rows in greys.blocks(self._pixels):
            np.take(table, self._pixels[rows], out=picture[rows], mode="clip")  # all are inside: nothing to check
        return picture


def of(pixels: np.ndarray) -> Levels:
    """The levels of whole numbers (y, x)."""
    if pixels.dtype.itemsize > 2:
        values, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        return Levels(values, counts, places.reshape(pixels.shape), np.arange(len(values)), len(values))
    unsigned = np.ascontiguousarray(pixels).view(f"u{pixels.dtype.itemsize}")
    counts = np.zeros(WORDS, np.int64)
    for rows in greys.blocks(unsigned):  # a block's counts are exact as floats
        block = unsigned[rows].astype(np.uint16, copy=False)
        counts += cv2.calcHist([block], [0], None, [WORDS], [0, WORDS]).ravel().astype(np.int64)
    places = np.flatnonzero(counts)
    return Levels(places.astype(unsigned.dtype).view(pixels.dtype), counts[places], unsigned, places, WORDS)
