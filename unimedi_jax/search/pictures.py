"""Small pictures of cases, for a page: an X-ray as it is read, of a CT its middle slice."""

import cv2
import numpy as np
from jaxtyping import UInt8

from unimedi_jax.report import figures


def small(pixels: np.ndarray | None, size: int) -> UInt8[np.ndarray, "s s"]:
    """An X-ray uint8 (y, x) or a CT int16 HU (z, y, x) at `size` x `size` pixels; black where there is none.

    Of a CT the middle slice is shown, in the lung window, the patient's right at left.
    """
    if pixels is None or not size:
        return np.zeros((size, size), np.uint8)
    if pixels.ndim == 3:
        pixels = figures.lung_window(pixels[len(pixels) // 2])
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)


def png(picture: UInt8[np.ndarray, "s s"]) -> bytes:
    """A small picture as PNG; nothing of a black one, which stands for none."""
    if not picture.any():
        return b""
    return cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes()
