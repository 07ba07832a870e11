"""Reads one chest X-ray, PNG, JPEG or DICOM, to an 8-bit image that is bright where the body is dense."""

import io
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi

from data.readers import dicom_pixels, dicom_tags, geometry, jpeg
from data.readers.files import BadInput, Note, ignore_note, read_bytes

RULES = {
    "grey": "8-bit values are kept; deeper ones run linearly from percentile 0.5 to 99.5 of the pixels to 0-255",
    "colour": "equal channels are one, others become luma 0.299 R + 0.587 G + 0.114 B; alpha lies over black",
    "exif": "the EXIF orientation is applied",
    "dicom": "modality LUT, then the first VOI LUT or window, or percentiles where there is none or it leaves "
    "nothing to see; MONOCHROME1 is inverted after it; pixel padding is black",
    "resize": "longest side 256, area mean when shrinking, linear when growing, centred on zeros",
}

MIN_SIDE = 32
MAX_PIXELS = 80_000_000
PERCENTILES = (0.5, 99.5)
PICTURE_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF")
MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*")
SUFFIXES = {"PNG": ("png",), "BMP": ("bmp",), "WEBP": ("webp",), "TIFF": ("tif", "tiff")}
JPEG_SUFFIXES = ("jpg", "jpeg", "jpe", "jfif", "mpo")
# An X-ray may be tinted and have coloured marks: the colour of nearly all its pixels follows from their brightness.
# COLOURED is the deviation, as a share of the range, above which a pixel counts as coloured in its own right.
COLOURED, MOST_COLOURED = 0.1, 0.2
LATERAL = ("LL", "RL", "LATERAL", "LLD", "RLD")
NOT_XRAYS = "CT MR PT NM US MG OCT OP SR SEG RTSTRUCT RTDOSE ECG XC SM ES"


def read_xray(path: Path) -> np.ndarray:
    """The X-ray of a file as uint8 (XRAY_SIZE, XRAY_SIZE). Raises BadInput."""
    return geometry.canonical_xray(read_full_xray(path))


def read_full_xray(path: Path, note: Note = ignore_note) -> np.ndarray:
    """The X-ray of a file as uint8 (y, x), in its own size; `note` gets what was tolerated. Raises BadInput."""
    data = read_bytes(path)
    is_dicom = data[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")
    return _dicom(data, note) if is_dicom else _picture(data, path.suffix.lower().lstrip("."), note)


def read_xray_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A mask of whole numbers (y, x) on the grid of an X-ray of `shape`; 0 is nothing. Raises BadInput."""
    pixels, _, _ = _decode(read_bytes(path))
    mask = pixels if pixels.ndim == 2 else pixels[..., :3].max(-1)
    if mask.shape != shape:
        raise BadInput("mask_geometry", f"the mask is {mask.shape}, its film {shape}")
    if not np.issubdtype(mask.dtype, np.integer):
        raise BadInput("mask_values", "the mask does not hold whole numbers")
    # Lossy or anti-aliased masks have many values: they outline one thing.
    return mask if len(np.unique(mask)) <= 64 else (mask > mask.max() / 2).astype(np.uint8)


def _picture(data: bytes, suffix: str, note: Note) -> np.ndarray:
    pixels, kind, turn = _decode(data)
    if suffix not in SUFFIXES.get(kind, JPEG_SUFFIXES):
        note("wrong_extension")
    if turn != 1:
        note("exif_turned")
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise BadInput("nonfinite", "the film has NaN or infinite pixels")
    _check_colour(pixels, note)
    grey = _grey(pixels)
    _check_size(*grey.shape)
    _check_contrast(grey)
    return grey if grey.dtype == np.uint8 else _to_8_bits(grey, *_percentiles(grey))


def _decode(data: bytes) -> tuple[np.ndarray, str, int]:
    """Pixels (y, x) or (y, x, RGB or RGBA) of a picture file, as deep as stored, upright; its format and EXIF turn."""
    # Pillow identifies a file without decoding it; OpenCV decodes, because Pillow cuts 16-bit colour down to 8.
    try:
        with Image.open(io.BytesIO(data)) as header:
            kind, mode, size = header.format, header.mode, header.size
            frames, turn = getattr(header, "n_frames", 1), header.getexif().get(0x0112, 1)
    except Image.DecompressionBombError as error:
        raise BadInput("too_large", "the header claims more pixels than any film has") from error
    except Exception as error:  # damaged EXIF blocks raise whatever they lead to
        if data.startswith(b"\xff\xd8\xff") and not jpeg.stream_facts(data).ended:
            raise BadInput("jpeg_truncated", "the JPEG ends before its end marker") from error
        if data.startswith(MAGIC):
            raise BadInput("truncated", "the picture ends early or is damaged") from error
        raise BadInput("not_an_image", "neither a picture nor DICOM") from error
    if kind not in PICTURE_FORMATS:
        raise BadInput("unsupported_format", f"{kind} is none of {', '.join(PICTURE_FORMATS)}")
    if frames > 1 and kind != "MPO":  # MPO: a camera's JPEG with previews behind the picture
        raise BadInput("multi_frame", f"{frames} pictures in one file")
    if mode == "CMYK":
        raise BadInput("unsupported_colour", "CMYK")
    if size[0] * size[1] > MAX_PIXELS:
        raise BadInput("too_large", f"{size[0]} x {size[1]} pixels")
    if kind in ("JPEG", "MPO") and not jpeg.stream_facts(data).ended:
        raise BadInput("jpeg_truncated", "the JPEG ends before its end marker")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadInput("not_an_image", "the picture cannot be decoded") from error
    if pixels is None:
        raise BadInput("truncated", "the picture ends early or is damaged")
    if mode == "1" and pixels.dtype == np.uint8:
        pixels = np.where(pixels > 0, np.uint8(255), np.uint8(0))
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # OpenCV's BGR
    return _upright(pixels, turn), kind, turn


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Undoes the eight EXIF orientations."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Grey values (y, x) of grey, RGB or RGBA pixels, in the depth they have."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :3]
    red, green, blue = (colours[..., i] for i in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        grey = red.astype(np.float32)
    else:
        grey = colours.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    if pixels.shape[2] == 4:
        full = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.0
        grey = grey * (pixels[..., 3] / np.float32(full))
    return np.rint(grey).astype(pixels.dtype) if np.issubdtype(pixels.dtype, np.integer) else grey


def _check_colour(pixels: np.ndarray, note: Note) -> None:
    """Notes a picture with colours, and refuses one of many colours: a photograph, a colour map."""
    if pixels.ndim == 2:
        return
    full = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else max(float(pixels.max()), 1e-9)
    red, green, blue = (pixels[..., i].ravel() / np.float32(full) for i in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return
    note("colour")
    level = np.clip((red + green + blue) * (32 / 3), 0, 31).astype(np.int64)
    count = np.maximum(np.bincount(level, minlength=32), 1)
    away = np.zeros(len(level), bool)
    for difference in (red - green, blue - green):
        usual = np.bincount(level, difference, minlength=32) / count
        away |= np.abs(difference - usual[level]) > COLOURED
    share = float(away.mean())
    if share > MOST_COLOURED:
        raise BadInput("coloured", f"{share:.0%} of the pixels have colours of their own: no film")


def _dicom(data: bytes, note: Note) -> np.ndarray:
    dataset = _dataset(data)
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        note("burned_in")
    if str(dataset.get("ViewPosition", "")).upper() in LATERAL:
        note("lateral_view")
    stored = _stored_pixels(dataset)
    padding = _padding(dataset, stored)
    if stored.ndim == 3:  # RGB, as secondary captures are
        shown = _to_8_bits(_grey(stored), 0, (1 << int(dataset.BitsStored)) - 1)
    else:
        values = apply_modality_lut(stored, dataset).astype(np.float32)
        if not np.isfinite(values).all():
            raise BadInput("nonfinite", "the modality LUT gives NaN or infinite values")
        body = values[~padding]
        if not body.size:
            raise BadInput("constant_image", "every pixel is padding")
        _check_contrast(body)
        shown = _voi(stored, values, dataset)
        # A window beside all values leaves nothing to see.
        if shown is None or shown[~padding].min() == shown[~padding].max():
            shown = _to_8_bits(values, *_percentiles(body))
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = 255 - shown
    shown[padding] = 0
    _check_contrast(shown)
    return shown


def _dataset(data: bytes) -> pydicom.Dataset:
    """The header and the undecoded pixels, checked for what an X-ray must have."""
    dataset = dicom_tags.read(data, pixels=True)
    try:
        modality = str(dataset.get("Modality", ""))
        frames = int(dataset.get("NumberOfFrames") or 1)
        rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise BadInput("dicom_damaged", f"the header cannot be read ({type(error).__name__})") from error
    if modality in NOT_XRAYS.split():
        raise BadInput("wrong_modality", f"DICOM modality {modality} in a row of modality xray")
    if "PixelData" not in dataset or not rows:
        raise BadInput("no_pixels", "the file holds no picture")
    if frames > 1:
        raise BadInput("multi_frame", f"{frames} frames in one film")
    _check_size(rows, columns)
    return dataset


def _stored_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """Pixel values as stored: (y, x), or (y, x, 3) as RGB."""
    pixels = dicom_pixels.decode(dataset)
    colour = str(dataset.get("PhotometricInterpretation", ""))
    if pixels.ndim == 3 and (pixels.shape[2] != 3 or not colour.startswith(("RGB", "YBR"))):
        raise BadInput("unsupported_colour", "three-dimensional pixels that are not RGB")
    if colour == "PALETTE COLOR":
        raise BadInput("unsupported_colour", "PALETTE COLOR")
    return pixels


def _padding(dataset: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Where the picture is padding, bool (y, x)."""
    low = dataset.get("PixelPaddingValue")
    if low is None or stored.ndim == 3:
        return np.zeros(stored.shape[:2], bool)
    high = dataset.get("PixelPaddingRangeLimit", low)
    low, high = sorted((int(low), int(high)))
    return (stored >= low) & (stored <= high)


def _voi(stored: np.ndarray, values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
    """The image as its first VOI LUT or window shows it, uint8; None where it has neither (DICOM PS3.3 C.11.2)."""
    sequence = dataset.get("VOILUTSequence")
    if sequence and sequence[0].get("LUTDescriptor") is not None:
        try:
            looked_up = apply_voi(values.astype(np.int32), dataset)
        except Exception as error:
            raise BadInput("dicom_damaged", "the VOI LUT cannot be applied") from error
        return _to_8_bits(looked_up, 0, (1 << int(sequence[0].LUTDescriptor[2])) - 1)
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or not np.isfinite([centre, width]).all() or width < 1:
        return None
    # Not pydicom's window: its output range turns over with a negative slope.
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
        return _to_8_bits(share, 0, 1)
    if function == "LINEAR":  # C.11.2.1.2.1: half a step to the left, one step less wide
        centre, width = centre - 0.5, max(width - 1, 1e-3)
    return _to_8_bits(values, centre - width / 2, centre + width / 2)


def _first(value: object) -> float | None:
    """The first of a DICOM element's values."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if len(value) else None
    return None if value is None else float(value)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5, or the extremes where these two agree."""
    low, high = np.percentile(values, PERCENTILES)
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))


def _to_8_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps low..high to 0..255 and clips."""
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise BadInput("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side")
    if height * width > MAX_PIXELS:
        raise BadInput("too_large", f"{width} x {height} pixels")


def _check_contrast(values: np.ndarray) -> None:
    if values.min() == values.max():
        raise BadInput("constant_image", "every pixel has the same value")
