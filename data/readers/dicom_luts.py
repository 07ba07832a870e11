"""Lookup tables and windows of a DICOM X-ray (PS3.3 C.11.1 and C.11.2): from pixel values to grey values.

Tables are read by what they hold: many say 16 bits where entries end at 4095, or hold 8-bit entries in 16-bit words.
"""

import dataclasses

import numpy as np
import pydicom

from data.readers.files import BadInput

BIG_ENDIAN = pydicom.uid.ExplicitVRBigEndian


@dataclasses.dataclass(frozen=True)
class Table:
    """`entries` (n,) int32 of the pixel values from `first` on; `white` is the largest number of their bits."""

    first: int
    entries: np.ndarray
    white: int
    claimed_bits: int

    @property
    def contradicts(self) -> bool:
        """Whether the entries have another width than the descriptor says."""
        return self.white != (1 << self.claimed_bits) - 1

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """The entries of pixel values; those before the first or behind the last entry get the nearest one's."""
        inside = np.clip(values, self.first, self.first + len(self.entries) - 1)
        return self.entries[inside.astype(np.int32) - self.first]


def table(item: pydicom.Dataset, values: np.ndarray, dataset: pydicom.Dataset) -> Table:
    """One item of a LUT sequence; `values` are those that it will be applied to. Raises BadInput."""
    try:
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        count = count % 65536 or 65536  # as an unsigned number; 0 stands for the one that does not fit
        entries = _entries(item.LUTData, count, bits, big_endian=dataset.file_meta.TransferSyntaxUID == BIG_ENDIAN)
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput("bad_lut", "a lookup table whose descriptor and data do not fit each other") from error
    low, high = float(values.min()), float(values.max())
    if low < 0 and first > 32767:  # written without its sign
        first -= 65536
    elif low >= 0 and high > 32767 and first < 0:  # written with a sign that it does not have
        first += 65536
    return Table(first, entries, (1 << int(entries.max()).bit_length()) - 1, bits)


def _entries(data: object, count: int, bits: int, *, big_endian: bool) -> np.ndarray:
    """LUTData as numbers: one in a word, or two of 8 bits in a word, the first in its low byte. Raises ValueError."""
    if isinstance(data, bytes):
        words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2" if big_endian else "<u2").astype(np.int32)
    else:
        words = np.atleast_1d(np.array(data, np.int32)) & 0xFFFF
    if len(words) == count:
        return words
    if bits <= 8 and len(words) == (count + 1) // 2:
        return np.stack([words & 0xFF, words >> 8], 1).ravel()[:count]
    raise ValueError(f"{len(words)} words for {count} entries")


def modality_values(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Pixel values after the modality table or slope and intercept, float32. Raises BadInput."""
    if sequence := dataset.get("ModalityLUTSequence"):
        return table(sequence[0], stored, dataset).look_up(stored).astype(np.float32)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return stored.astype(np.float32)
    try:
        return (stored.astype(np.float64) * float(slope) + float(intercept)).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput("dicom_damaged", "RescaleSlope or RescaleIntercept is not a number") from error


def window(dataset: pydicom.Dataset) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None where there is none that can be applied."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if centre is None or width is None or not np.isfinite([centre, width]).all():
        return None
    # C.11.2.1.2: the linear window is at least 1 wide, the other two wider than 0.
    if width <= 0 or (width < 1 and function not in ("LINEAR_EXACT", "SIGMOID")):
        return None
    return centre, width, function


def windowed(values: np.ndarray, centre: float, width: float, function: str) -> tuple[np.ndarray, float, float]:
    """Values and the low and the high end that become black and white."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60))), 0.0, 1.0
    if function == "LINEAR":  # C.11.2.1.2.1: half a step to the left, one step less wide
        centre, width = centre - 0.5, max(width - 1, 1e-3)
    return values, centre - width / 2, centre + width / 2


def _first(value: object) -> float | None:
    """The first of a DICOM element's values."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(value)
