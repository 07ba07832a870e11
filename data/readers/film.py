"""An X-ray as it is hung, and how it lies on the pixels of its file: turned, and stretched to square pixels."""

import dataclasses

import cv2
import numpy as np

from data.readers.files import BadInput

SQUARE = 0.01  # the share by which the sides of a pixel may differ and still count as equal
MOST_OBLONG = 4.0  # no detector or scanner makes longer pixels
LEFT_TO_FEET = ("L", "F")  # of a film that is hung as its reader faces the patient
SIDES = ("RL", "AP", "HF")


@dataclasses.dataclass(frozen=True)
class Turn:
    """Brings stored pixels upright: rows and columns are swapped first, then each may be reversed."""

    swap: bool = False
    rows: bool = False
    columns: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """The turned pixels, (y, x) or (y, x, channel), as a view."""
        if self.swap:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1]


UPRIGHT = Turn()


@dataclasses.dataclass(frozen=True)
class Film:
    """An X-ray as it is hung: uint8 (y, x) of square pixels. Tables and masks speak of the file's pixels, `stored`."""

    pixels: np.ndarray
    stored: tuple[int, int]  # (y, x)
    turn: Turn = UPRIGHT

    def hang(self, mask: np.ndarray) -> np.ndarray:
        """A mask (y, x) of the stored pixels as the film hangs. Raises BadInput for one of another size."""
        if mask.shape != self.stored:
            raise BadInput("mask_geometry", f"the mask is {mask.shape}, its X-ray {self.stored}")
        turned = self.turn.apply(mask)
        times = turned.shape[0] // self.pixels.shape[0] or 1
        if turned.shape == (times * self.pixels.shape[0], times * self.pixels.shape[1]):
            return turned  # as fine as the film, or finer: decoded at a reduced scale
        size = self.pixels.shape[::-1]
        return cv2.resize(np.ascontiguousarray(turned), size, interpolation=cv2.INTER_NEAREST_EXACT)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2), (y, x) from the stored pixels' upper left corner, on the film."""
        points, shape = np.asarray(points, np.float64), np.array(self.stored, np.float64)
        if self.turn.swap:
            points, shape = points[:, ::-1], shape[::-1]
        points = np.where([self.turn.rows, self.turn.columns], shape - points, points)
        return points * (self.pixels.shape / shape)


def hung(pixels: np.ndarray, *, aspect: float = 1.0, turn: Turn = UPRIGHT) -> Film:
    """The film of stored grey values, uint8 (y, x), whose pixels are `aspect` times as high as wide."""
    stored = pixels.shape
    size = (round(stored[1] * max(1, 1 / aspect)), round(stored[0] * max(1, aspect)))
    if size != stored[::-1]:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return Film(np.ascontiguousarray(turn.apply(pixels)), stored, turn)


def aspect(*sizes: tuple[float, float] | None) -> float:
    """Height over width of a pixel, 1 for a square one, from all (height, width) that a header has.

    Raises BadInput where these disagree, or are those of no picture.
    """
    ratios = [height / width for height, width in filter(None, sizes)]
    if not ratios:
        return 1.0
    if max(ratios) > (1 + SQUARE) * min(ratios):
        raise BadInput("bad_spacing", "the header has several sizes of a pixel, of different shapes")
    if not 1 / MOST_OBLONG <= ratios[0] <= MOST_OBLONG:
        raise BadInput("bad_spacing", f"pixels {ratios[0]:.3g} times as high as wide")
    return 1.0 if abs(ratios[0] - 1) <= SQUARE else ratios[0]


def turn_of(orientation: list[str]) -> Turn:
    """What hangs a film with these directions of its rows and its columns (PatientOrientation, PS3.3 C.7.6.1.1.1).

    Columns come to run to the feet, rows of a frontal film to the patient's left; a lateral film, which is hung either
    way, keeps its left and right. Raises BadInput for directions that no chest film has.
    """
    row, column = (_main(direction) for direction in orientation)
    swap = row in "HF"
    if swap:
        row, column = column, row
    if column not in "HF" or row in "HF":
        raise BadInput("film_orientation", "the X-ray's rows and columns do not run across and along the body")
    return Turn(swap, rows=column == "H", columns=row == "R")


def _main(direction: str) -> str:
    """The first letter, along which a direction mostly runs."""
    letter = direction.strip().upper()[:1]
    if not letter or not any(letter in side for side in SIDES):
        raise BadInput("film_orientation", "DICOM does not know the direction of the X-ray's rows or columns")
    return letter
