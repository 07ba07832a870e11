"""Films and scans of the size that hospitals deliver, made up."""

import csv
import pathlib

import cv2
import nibabel
import numpy as np
from scipy import ndimage

FILM = (3056, 2544)  # pixels of MIMIC-CXR-JPG
SCAN = (512, 512, 300)  # voxels x, y, z
SPACING = (0.7, 0.7, 1.0)  # mm
REPORT = "The heart is normal in size. There is a small effusion on the left. No pneumothorax. Bones are intact."


def make(folder: pathlib.Path, films: int, scans: int) -> pathlib.Path:
    """Writes `films` JPEGs and `scans` compressed NIfTIs with their manifest, unless they are there; its path."""
    path = folder / f"{films}-{scans}.csv"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(films):
        file = folder / f"film{number}.jpg"
        cv2.imwrite(str(file), _film(rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
        rows.append((file.name, "xray", REPORT, f"patient{number}", "train"))
    for number in range(scans):
        file = folder / f"scan{number}.nii.gz"
        image = nibabel.Nifti1Image(_scan(rng), np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
        nibabel.save(image, file)
        rows.append((file.name, "ct", REPORT, f"patient{films + number}", "train"))
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([("path", "modality", "report", "patient", "split"), *rows])
    return path


def _film(rng: np.random.Generator) -> np.ndarray:
    """Shades of all sizes under noise: about a megabyte as JPEG, as radiographs are."""
    coarse = sum(
        cv2.resize(rng.random((n, n), np.float32), FILM[::-1], interpolation=cv2.INTER_CUBIC) for n in (4, 16, 64)
    )
    noise = rng.standard_normal(FILM, np.float32)
    return np.clip(60 * coarse + 3 * noise + 30, 0, 255).astype(np.uint8)


def _scan(rng: np.random.Generator) -> np.ndarray:
    """A body of soft tissue with lungs in air, and the noise of a scanner: about 60 MB compressed."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in SCAN)]
    volume = np.where(x**2 / 0.72 + y**2 / 0.4 < 1, 40.0, -1000.0) + np.zeros_like(z)
    for side in (-0.35, 0.35):
        volume = np.where((x - side) ** 2 / 0.06 + y**2 / 0.12 + z**2 / 0.7 < 1, -850.0, volume)
    shades = ndimage.zoom(rng.standard_normal([n // 10 for n in SCAN]), [n / (n // 10) for n in SCAN], order=1)
    noise = rng.standard_normal(SCAN, np.float32)
    return np.where(volume > -1000, volume + 20 * shades + 12 * noise, -1000 + np.abs(4 * noise)).astype(np.int16)
