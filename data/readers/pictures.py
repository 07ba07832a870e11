"""Reads one X-ray from a picture file (PNG, JPEG, BMP, WebP, TIFF) to 8-bit grey values."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from data.readers import film, greys, jpeg, levels, memory, png, reduced
from data.readers.files import BadInput, Note

FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF")
MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*")
SUFFIXES = {"PNG": ("png",), "BMP": ("bmp",), "WEBP": ("webp",), "TIFF": ("tif", "tiff")}
JPEG_SUFFIXES = ("jpg", "jpeg", "jpe", "jfif", "mpo")
EXIF_TURN = 0x0112
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF's tag of that name, and its value for a negative
CHANNELS = {"1": 1, "L": 1, "P": 3, "LA": 4, "I;16": 1, "I;16B": 1, "I": 1, "F": 1, "RGB": 3, "RGBA": 4}
# The eight EXIF orientations, as what undoes them.
TURNS = {
    2: film.Turn(columns=True),
    3: film.Turn(rows=True, columns=True),
    4: film.Turn(rows=True),
    5: film.Turn(swap=True),
    6: film.Turn(swap=True, columns=True),
    7: film.Turn(swap=True, rows=True, columns=True),
    8: film.Turn(swap=True, rows=True),
}
# An X-ray may be tinted and have coloured marks: the colour of nearly all its pixels follows from their brightness.
# COLOURED is the deviation, as a share of the range, above which a pixel counts as coloured in its own right.
COLOURED, MOST_COLOURED = 0.1, 0.2


def eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values (y, x) as uint8: 8 bits as they are, deeper ones between their percentiles. Raises BadInput."""
    if grey.dtype == np.uint16:
        each = levels.of(grey)
        greys.check_contrast(each.values)
        ends = greys.percentiles(each.values, each.counts)
        return each.picture(greys.to_8_bits(each.values[None], *ends)[0])
    greys.check_contrast(grey)
    return grey if grey.dtype == np.uint8 else greys.to_8_bits(grey, *greys.percentiles(grey))


def read(data: bytes, suffix: str, note: Note, show: Callable[[np.ndarray], np.ndarray] = eight_bits) -> film.Film:
    """The X-ray of a picture file, `suffix` that of its name; `note` gets what was tolerated. Raises BadInput.

    `show` makes uint8 of its grey values (y, x).
    """
    pixels, kind, turn, aspect, stored, white_is_zero = decode(data, reduced.LEAST.get())
    if suffix not in SUFFIXES.get(kind, JPEG_SUFFIXES):
        note("wrong_extension")
    if turn != 1:
        note("exif_turned")
    if aspect != 1:
        note("stretched")
    if np.issubdtype(pixels.dtype, np.floating) and not all(np.isfinite(pixels[r]).all() for r in greys.blocks(pixels)):
        raise BadInput("nonfinite", "the X-ray has NaN or infinite pixels")
    check_colour(pixels, note)
    grey = grey_values(pixels)
    if white_is_zero:
        grey = ~grey if np.issubdtype(grey.dtype, np.integer) else -grey
    greys.check_size(*stored)
    hung = film.hung(show(grey), aspect=aspect)
    return dataclasses.replace(hung, stored=stored)


class Picture(NamedTuple):
    """Pixels (y, x) or (y, x, RGB or RGBA), as deep as stored and upright, and what the header says."""

    pixels: np.ndarray
    kind: str  # Pillow's name of the format
    turn: int  # the EXIF orientation
    aspect: float  # how many times as high as wide an upright pixel is
    stored: tuple[int, int]  # (y, x) pixels of the file, upright; more than `pixels` has at a reduced scale
    white_is_zero: bool  # whether the numbers in `pixels` are those of a negative


def decode(data: bytes, least: int = 0) -> Picture:
    """The picture of a file, a JPEG perhaps at a scale that leaves `least` pixels of its longest side (reduced.py)."""
    # Pillow identifies a file without decoding it; OpenCV decodes, because Pillow cuts 16-bit colour down to 8.
    try:
        with Image.open(io.BytesIO(data)) as header:
            kind, mode, size, density = header.format, header.mode, header.size, _density(header.info)
            frames = getattr(header, "n_frames", 1)
            negative = kind == "TIFF" and header.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
            # A PNG's own `getexif` decodes it to the end, where EXIF may stand, too.
            exif = Image.Image.getexif(header) if png.is_plain(data) else header.getexif()
            turn = exif.get(EXIF_TURN, 1)
    except Image.DecompressionBombError as error:
        raise BadInput("too_large", "the header claims more pixels than any X-ray has") from error
    except Exception as error:  # damaged EXIF blocks raise whatever they lead to
        if data.startswith(b"\xff\xd8\xff") and not jpeg.stream_facts(data).ended:
            raise BadInput("jpeg_truncated", "the JPEG ends before its end marker") from error
        if data.startswith(MAGIC):
            raise BadInput("truncated", "the image ends early or is damaged") from error
        raise BadInput("not_an_image", "neither an image nor DICOM") from error
    if kind not in FORMATS:
        raise BadInput("unsupported_format", f"{kind} is none of {', '.join(FORMATS)}")
    if frames > 1 and kind != "MPO":  # MPO: a camera's JPEG with previews behind the picture
        raise BadInput("multi_frame", f"{frames} images in one file")
    if mode == "CMYK":
        raise BadInput("unsupported_colour", "CMYK")
    if size[0] * size[1] > greys.MAX_PIXELS:
        raise BadInput("too_large", f"{size[0]} x {size[1]} pixels")
    memory.check(len(data) + size[0] * size[1] * bytes_a_pixel(data, kind, mode) + greys.WORK)
    if kind in ("JPEG", "MPO") and not jpeg.stream_facts(data).ended:
        raise BadInput("jpeg_truncated", "the JPEG ends before its end marker")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), reduced.flags(kind, mode, size, least))
    except cv2.error as error:
        raise BadInput("not_an_image", "the image cannot be decoded") from error
    if pixels is None:
        raise BadInput("truncated", "the image ends early or is damaged")
    if mode == "1" and pixels.dtype == np.uint8:
        pixels = np.where(pixels > 0, np.uint8(255), np.uint8(0))
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # OpenCV's BGR
    undone = TURNS.get(turn, film.UPRIGHT)
    aspect = film.aspect(density)
    stored = size if undone.swap else size[::-1]
    aspect = 1 / aspect if undone.swap else aspect
    # OpenCV inverts pictures of 8 bits itself, and hands out deeper ones as they are stored.
    negative = negative and pixels.dtype != np.uint8
    return Picture(np.ascontiguousarray(undone.apply(pixels)), kind, turn, aspect, stored, negative)


def _density(info: dict) -> tuple[float, float] | None:
    """Pixels to a length along x and along y, which are to each other as a pixel's height to its width."""
    density = info.get("dpi") or info.get("aspect") or info.get("jfif_density")
    try:
        across, down = (float(number) for number in density)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < np.inf and 0 < down < np.inf else None


def bytes_a_pixel(data: bytes, kind: str, mode: str) -> int:
    """What decoding and converting one pixel takes at most (tests/data/test_memory.py measures it)."""
    channels = CHANNELS.get(mode, 4)
    deep = 2 if kind == "PNG" and data[24:25] == b"\x10" else 1
    if kind == "TIFF":
        deep = 8
    # Decoded; in the order of its channels; upright. A progressive JPEG has all its coefficients in memory, too.
    return 3 * channels * deep + (2 * channels if kind in ("JPEG", "MPO") else 0) + 6 * deep


def grey_values(pixels: np.ndarray) -> np.ndarray:
    """Grey values (y, x) of grey, RGB or RGBA pixels, in the depth they have."""
    if pixels.ndim == 2:
        return pixels
    grey = np.empty(pixels.shape[:2], pixels.dtype if np.issubdtype(pixels.dtype, np.integer) else np.float32)
    equal = all(_is_grey(pixels[rows]) for rows in greys.blocks(pixels))
    for rows in greys.blocks(pixels):
        grey[rows] = _grey_block(pixels[rows], equal)
    return grey


def _grey_block(pixels: np.ndarray, equal: bool) -> np.ndarray:
    colours = pixels[..., :3]
    if equal:
        grey = colours[..., 0].astype(np.float32)
    else:
        grey = colours.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    if pixels.shape[2] == 4:
        full = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.0
        grey = grey * (pixels[..., 3] / np.float32(full))
    return np.rint(grey) if np.issubdtype(pixels.dtype, np.integer) else grey


def _is_grey(pixels: np.ndarray) -> bool:
    return np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])


def check_colour(pixels: np.ndarray, note: Note) -> None:
    """Notes a picture with colours, and refuses one of many colours: a photograph, a colour map. Raises BadInput."""
    if pixels.ndim == 2 or all(_is_grey(pixels[rows]) for rows in greys.blocks(pixels)):
        return
    note("colour")
    full = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else max(float(pixels.max()), 1e-9)
    count, totals = np.zeros(32, np.int64), np.zeros((2, 32))
    for level, differences in _colour_blocks(pixels, full):
        count += np.bincount(level, minlength=32)
        for total, difference in zip(totals, differences, strict=True):
            total += np.bincount(level, difference, minlength=32)
    usual = totals / np.maximum(count, 1)
    away = 0
    for level, differences in _colour_blocks(pixels, full):
        apart = [np.abs(d - mean[level]) > COLOURED for d, mean in zip(differences, usual, strict=True)]
        away += np.count_nonzero(apart[0] | apart[1])
    share = away / (pixels.shape[0] * pixels.shape[1])
    if share > MOST_COLOURED:
        raise BadInput("coloured", f"{share:.0%} of the pixels are coloured: not an X-ray")


def _colour_blocks(pixels: np.ndarray, full: float) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Brightness of pixels in 32 steps, and how far their red and blue are from their green."""
    for rows in greys.blocks(pixels):
        red, green, blue = (pixels[rows][..., i].ravel() / np.float32(full) for i in range(3))
        level = np.clip((red + green + blue) * (32 / 3), 0, 31).astype(np.int64)
        yield level, (red - green, blue - green)
