"""Reads one X-ray from a DICOM file: the grey values that a viewer shows, hung as a viewer hangs it."""

import numpy as np
import pydicom

from data import views
from data.readers import dicom_bits, dicom_luts, dicom_pixels, dicom_tags, film, greys, levels, memory, pictures
from data.readers.files import BadInput, Note, ignore_note

NOT_XRAYS = "CT MR PT NM US MG OCT OP SR SEG RTSTRUCT RTDOSE ECG XC SM ES"
SIZES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")  # height, width
# A window of another depth than its film: it shows hardly any of the range, or the range hardly any of its grey values.
OTHER_DEPTH = 8
MOST_SATURATED = 0.5
BYTES_A_PIXEL = 28  # values as floats, twice as doubles, and the pictures of them (tests/data/test_memory.py measures)


def read(data: bytes, note: Note, *, by_largest: bool = False) -> film.Film:
    """The X-ray of a DICOM file; `note` gets what was tolerated. Raises BadInput.

    `by_largest`: stored values over the largest of them, as some published code reads films, whatever their window.
    """
    dataset = _dataset(data)
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        note("burned_in")
    if views.kind(str(dataset.get("ViewPosition", ""))) == views.LATERAL:
        note("lateral_view")
    aspect, turn = film.aspect(*(_size(dataset, name) for name in SIZES)), _turn(dataset)
    if aspect != 1:
        note("stretched")
    if turn != film.UPRIGHT:
        note("film_turned")
    stored = _stored_pixels(dataset)
    if stored.ndim == 3:
        shown = _colours(stored, dataset, note)
        shown = 255 - shown if _dense_is_dark(dataset, note) else shown
        greys.check_contrast(shown)
        return film.hung(shown, aspect=aspect, turn=turn)
    return film.hung(greys_of(stored, dataset, note, by_largest=by_largest), aspect=aspect, turn=turn)


def greys_of(
    stored: np.ndarray, header: pydicom.Dataset, note: Note = ignore_note, *, by_largest: bool = False
) -> np.ndarray:
    """Stored values (y, x), whole numbers, as a header shows them: uint8 (y, x), bright where the body is dense.

    Raises BadInput.
    """
    each = levels.of(stored)
    values = each.values[None]
    padding = dicom_bits.padding(values, header)
    if by_largest:
        shown = greys.to_8_bits(np.abs(values.astype(np.float32)), 0, max(float(values.max()), 1.0))
    else:
        shown = _greys(values, each.counts[None], padding, header, note)
    if _dense_is_dark(header, note):
        shown = 255 - shown
    shown[padding] = 0
    greys.check_contrast(shown)
    return each.picture(shown[0])


def _dataset(data: bytes) -> pydicom.Dataset:
    """The header and the undecoded pixels, checked for what an X-ray must have."""
    memory.check(2 * len(data))
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
        raise BadInput("no_pixels", "the file holds no image")
    if frames > 1:
        raise BadInput("multi_frame", f"{frames} frames in one X-ray")
    greys.check_size(rows, columns)
    memory.check(2 * len(data) + rows * columns * BYTES_A_PIXEL + greys.WORK)
    return dataset


def _size(dataset: pydicom.Dataset, name: str) -> tuple[float, float] | None:
    """Height and width of a pixel by one element; None where they are not two positive numbers."""
    try:
        height, width = (float(number) for number in dataset.get(name) or ())
    except (TypeError, ValueError):
        return None
    return (height, width) if 0 < height < np.inf and 0 < width < np.inf else None


def _turn(dataset: pydicom.Dataset) -> film.Turn:
    """What hangs the film; as it is stored where the header does not say how it lies."""
    orientation = dataset.get("PatientOrientation") or []
    directions = [orientation] if isinstance(orientation, str) else [str(direction) for direction in orientation]
    if not any(directions):
        return film.UPRIGHT
    if len(directions) != 2:
        raise BadInput("film_orientation", "PatientOrientation does not name two directions")
    return film.turn_of(directions)


def _stored_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """Pixel values as stored: (y, x), or (y, x, 3) as RGB."""
    colour = str(dataset.get("PhotometricInterpretation", ""))
    if colour == "PALETTE COLOR":
        raise BadInput("unsupported_colour", "PALETTE COLOR")
    pixels = dicom_pixels.decode(dataset)
    if pixels.ndim == 3 and (pixels.shape[2] != 3 or not colour.startswith(("RGB", "YBR"))):
        raise BadInput("unsupported_colour", "three-dimensional pixels that are not RGB")
    if pixels.ndim == 2 and not colour.startswith("MONOCHROME"):
        raise BadInput("unsupported_colour", "PhotometricInterpretation does not say whether 0 is black or white")
    return pixels


def _colours(stored: np.ndarray, dataset: pydicom.Dataset, note: Note) -> np.ndarray:
    """RGB, as secondary captures are, in grey values of 8 bits."""
    pictures.check_colour(stored, note)
    return greys.to_8_bits(pictures.grey_values(stored), 0, (1 << int(dataset.BitsStored)) - 1)


def _greys(
    stored: np.ndarray, counts: np.ndarray, padding: np.ndarray, dataset: pydicom.Dataset, note: Note
) -> np.ndarray:
    """What the first VOI LUT or window shows, or percentiles, of each pixel value, uint8; padding is anything.

    `stored` (1, k) are the values that occur, `counts` (1, k) how often, and `padding` (1, k) which of them is it.
    """
    values = dicom_luts.modality_values(stored, dataset)
    if not np.isfinite(values).all():
        raise BadInput("nonfinite", "the modality LUT gives NaN or infinite values")
    body, often = values[~padding], counts[~padding]
    if not body.size:
        raise BadInput("constant_image", "every pixel is padding")
    greys.check_contrast(body)
    low, high = greys.percentiles(body, often)
    shown = None
    sequence = dataset.get("VOILUTSequence")
    if sequence and sequence[0].get("LUTDescriptor") is not None:
        table = dicom_luts.table(sequence[0], values, dataset)
        if table.contradicts:
            note("lut_bits_corrected")
        shown = greys.to_8_bits(table.look_up(values), 0, max(table.white, 1))
        ends = (table.first, table.first + len(table.entries))
    elif window := dicom_luts.window(dataset):
        shown = greys.to_8_bits(*dicom_luts.windowed(values, *window))
        ends = (window[0] - window[1] / 2, window[0] + window[1] / 2)
    if shown is not None and _shows(shown[~padding], often, ends, (low, high)):
        return shown
    if shown is not None:
        note("window_ignored")
    return greys.to_8_bits(values, low, high)


def _shows(shown: np.ndarray, counts: np.ndarray, ends: tuple[float, float], used: tuple[float, float]) -> bool:
    """Whether a window or a table leaves something to see: one beside the film, or of another depth, does not.

    `shown` are the grey values that it gives, `counts` how often each occurs, `ends` what it maps, and `used` the
    percentiles of the film's values.
    """
    if (used[1] - used[0]) > OTHER_DEPTH * (ends[1] - ends[0]):
        return counts[(shown == 0) | (shown == 255)].sum() <= MOST_SATURATED * counts.sum()
    low, high = (greys.percentile(shown, counts, share) for share in greys.PERCENTILES)
    return high - low > 255 / OTHER_DEPTH


def _dense_is_dark(dataset: pydicom.Dataset, note: Note) -> bool:
    """Whether the picture must be inverted for what is dense to be bright."""
    dark = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    # C.11.6; under MONOCHROME1 the shape says the same again.
    if not dark and dataset.get("PresentationLUTShape") == "INVERSE":
        note("shape_inverse")
        dark = True
    if dataset.get("PresentationIntentType") == "FOR PROCESSING":
        # The detector's own numbers, which no viewer is meant to show: polarity is that of the beam (C.8.11.3.1).
        note("for_processing")
        sign = dataset.get("PixelIntensityRelationshipSign")
        dark = sign == 1 if sign in (1, -1) else dark
    return dark
