"""JPEGs decoded at a reduced scale: libjpeg leaves out the frequencies of each block that the record cannot hold.

A quarter of the pixels in each direction costs half of the time, and the area mean that follows evens out nearly all
that it changes: what is left stands in `rule`, measured on 36 real films.
"""

import contextvars
from collections.abc import Callable
from typing import TypeVar

import cv2

T, R = TypeVar("T"), TypeVar("R")
SCALES = (8, 4, 2)
TIMES = 2  # the longest side stays so many times that of the record at least
LEAST: contextvars.ContextVar[int] = contextvars.ContextVar("longest side of a reduced JPEG, 0 for exact", default=0)
GREY = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
COLOUR = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def scale(size: tuple[int, int], least: int) -> int:
    """By how much both sides may be divided: evenly, and the longest stays at least `least`; 1 for not at all."""
    fits = (n for n in SCALES if least and max(size) // n >= least and not any(side % n for side in size))
    return next(fits, 1)


def flags(kind: str, mode: str, size: tuple[int, int], least: int) -> int:
    """How OpenCV reads a picture of Pillow's `kind` and `mode`, as deep as stored and as it lies in the file."""
    chosen = scale(size, least) if kind == "JPEG" and mode in ("L", "RGB") else 1
    if chosen == 1:
        return cv2.IMREAD_UNCHANGED
    return (GREY if mode == "L" else COLOUR)[chosen] | cv2.IMREAD_IGNORE_ORIENTATION


def under(convert: Callable[[T], R], least: int, row: T) -> R:
    """`convert(row)` with JPEGs at a reduced scale; a partial of it takes the choice along to other processes."""
    before = LEAST.set(least)
    try:
        return convert(row)
    finally:
        LEAST.reset(before)


def rule(size: int) -> str:
    """What the contract of a set of records of `size` pixels says."""
    return (
        f"decoded at 1/8, 1/4 or 1/2 of both sides where that divides them and leaves {TIMES * size} pixels of the "
        "longest, by the first frequencies of each block: 99 of 100 grey values of a record move by at most 1, "
        "a few at the edges of lettering by up to 30"
    )
