"""Thumbnails for the doctor's page, also of rejected files, which are not trusted: whatever can be shown of them."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from data.readers import dicom_pixels, dicom_tags, memory
from data.readers.files import is_dicom
from data.source import Example

SIDE = 180
WINDOW_HU = (-1000, 400)
MOST_PIXELS = 1 << 26
# Reasons after which there is an image to show; after the others there is none, or it should not be opened.
SHOWN = (
    "coloured constant_image too_small unsupported_colour truncated jpeg_truncated nonfinite wrong_modality not_hu "
    "double_rescale constant_volume oblique too_few_slices uneven_slices no_rescale no_orientation affine_conflict "
    "bad_spacing mask_geometry mask_values bad_split bad_label no_patient empty_report wrong_language "
    "duplicate_row duplicate_path leak_patient hash_mismatch"
)


def of_example(example: Example) -> bytes:
    """PNG of an accepted X-ray, or of the middle slice of a CT."""
    if "image" in example:
        return _png(example["image"].astype(np.float32), 0, 255)
    return _png(example["volume"][len(example["volume"]) // 2].astype(np.float32), *WINDOW_HU)


def of_file(path: Path, code: str) -> bytes | None:
    """PNG of a rejected file, if it can be shown."""
    if code not in SHOWN.split():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _pixels(path)
        finite = pixels[np.isfinite(pixels)]
        return _png(np.nan_to_num(pixels), *np.percentile(finite, (1, 99)))
    except Exception:  # it was rejected for a reason, which may prevent this too
        return None


def _pixels(path: Path) -> np.ndarray:
    """Some grey values (y, x) of a file or folder; raises whatever its readers raise."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        path = files[len(files) // 2]
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr")):
        import nibabel

        image = nibabel.load(path)
        if np.prod(image.shape[:3]) * image.get_data_dtype().itemsize > MOST_PIXELS * 8:
            raise ValueError("too large for a thumbnail")
        return np.asarray(image.dataobj[..., image.shape[2] // 2], np.float32).squeeze().T[::-1]
    if is_dicom(path):
        memory.check(2 * path.stat().st_size)
        dataset = dicom_tags.read(path, pixels=True)
        if int(dataset.Rows) * int(dataset.Columns) > MOST_PIXELS:
            raise ValueError("too large for a thumbnail")
        return dicom_pixels.decode(dataset).astype(np.float32)
    with PIL.Image.open(path) as picture:
        picture.draft("L", (SIDE, SIDE))
        if picture.size[0] * picture.size[1] > MOST_PIXELS:
            raise ValueError("too large for a thumbnail")
        return np.asarray(picture.convert("L"), np.float32)


def _png(pixels: np.ndarray, low: float, high: float) -> bytes:
    grey = np.clip((pixels - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    scale = SIDE / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return cv2.imencode(".png", cv2.resize(grey, size, interpolation=cv2.INTER_AREA))[1].tobytes()
