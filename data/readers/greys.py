"""Grey values of an X-ray: their range, their 8 bits, and what is no picture of a chest."""

from collections.abc import Iterator

import numpy as np

from data.readers.files import BadInput

MIN_SIDE = 32
MAX_PIXELS = 80_000_000
PERCENTILES = (0.5, 99.5)
BLOCK = 1 << 21  # pixels that are worked on at once: floats of a whole picture would take ten times its size
WORK = 50 * BLOCK  # bytes that a block takes


def blocks(pixels: np.ndarray) -> Iterator[slice]:
    """Rows of a picture, (y, x) or (y, x, channel), a few at a time."""
    rows = max(1, BLOCK // pixels.shape[1])
    return (slice(start, start + rows) for start in range(0, len(pixels), rows))


def percentiles(values: np.ndarray, counts: np.ndarray | None = None) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5, or the extremes where these two agree; `counts` says how often each value occurs."""
    if counts is None:
        low, high = np.percentile(values, PERCENTILES)
    else:
        low, high = (percentile(values, counts, share) for share in PERCENTILES)
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))


def percentile(values: np.ndarray, counts: np.ndarray, share: float) -> float:
    """numpy.percentile, to the last bit, of pixels of which `counts` (k,) have the value `values` (k,)."""
    order = np.argsort(values, kind="stable")
    last = np.cumsum(counts[order])
    place = (int(last[-1]) - 1) * (share / 100)
    below = int(np.floor(place))
    pair = np.searchsorted(last, [below, min(below + 1, int(last[-1]) - 1)], side="right")
    low, high = values[order[pair]]
    step, part = np.subtract(high, low), np.float64(place - below)
    return float(low + step * part if part < 0.5 else high - step * (1 - part))


def to_8_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps low..high to 0..255 and clips."""
    shown = np.empty(values.shape, np.uint8)
    for rows in blocks(values):
        scaled = (values[rows].astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        shown[rows] = np.rint(np.clip(scaled, 0, 255))
    return shown


def check_size(height: int, width: int) -> None:
    """Refuses thumbnails, and what is larger than any X-ray. Raises BadInput."""
    if min(height, width) < MIN_SIDE:
        raise BadInput("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side")
    if height * width > MAX_PIXELS:
        raise BadInput("too_large", f"{width} x {height} pixels")


def check_contrast(values: np.ndarray) -> None:
    """Refuses a picture of one value. Raises BadInput."""
    if values.min() == values.max():
        raise BadInput("constant_image", "every pixel has the same value")
