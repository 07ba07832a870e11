"""The phantom's CT: a thorax sampled on the canonical grid, with noise, pose and a table."""

import dataclasses

import cv2
import numpy as np

from data.phantom.patient import Patient, Thorax
from data.phantom.shapes import Grid, Occupancy

SHAPE = (32, 128, 128)
FINER = 2  # slices computed for each slice of the scan


@dataclasses.dataclass(frozen=True)
class Scan:
    """How one CT was taken."""

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # centre of the first voxel, patient's frame
    turn: float  # degrees around the long axis
    noise_hu: float
    table: bool


def draw_scan(patient: Patient, rng: np.random.Generator) -> Scan:
    """Draws field of view, slice thickness, pose and noise of one scan."""
    thick = float(np.clip((patient.height + rng.uniform(35, 60)) / SHAPE[0], 9.0, 10.0))
    pixel = float(np.clip((2 * patient.half_width + rng.uniform(55, 90)) / SHAPE[1], 2.6, 3.0))
    middle = 0.5 * patient.height - 2 + rng.uniform(-5, 5)
    shift = rng.uniform((-2, -8), (14, 8))  # (y, x); the back has more muscle
    origin = (
        middle - thick * (SHAPE[0] - 1) / 2,
        shift[0] - pixel * (SHAPE[1] - 1) / 2,
        shift[1] - pixel * (SHAPE[2] - 1) / 2,
    )
    spacing, turn = (thick, pixel, pixel), rng.normal(0, 2.5)
    return Scan(spacing, origin, turn, noise_hu=rng.uniform(8, 26), table=rng.random() < 0.7)


def scan_grid(scan: Scan) -> Grid:
    """The grid to draw on: the canonical one with each slice cut in two."""
    thick, pixel, _ = scan.spacing_mm
    z0 = scan.origin_mm[0] - thick / 4
    z = z0 + thick / FINER * np.arange(FINER * SHAPE[0])
    y = scan.origin_mm[1] + pixel * np.arange(SHAPE[1])
    x = scan.origin_mm[2] + pixel * np.arange(SHAPE[2])
    return Grid(z.astype(np.float32), y.astype(np.float32), x.astype(np.float32))


def turned(volume: np.ndarray, degrees: float) -> np.ndarray:
    """Turns every slice of (z, y, x) about its centre."""
    matrix = cv2.getRotationMatrix2D(((SHAPE[2] - 1) / 2, (SHAPE[1] - 1) / 2), degrees, 1.0)
    size = (SHAPE[2], SHAPE[1])
    return np.stack([cv2.warpAffine(plane, matrix, size, borderMode=cv2.BORDER_REPLICATE) for plane in volume])


def take_scan(thorax: Thorax, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """The CT of a thorax: (32, 128, 128) int16 in HU."""
    pairs = thorax.hu.reshape(SHAPE[0], FINER, *SHAPE[1:]).mean(1)
    volume = turned(pairs, scan.turn)
    if scan.table:
        lay_table(volume, thorax, scan)
    noise = rng.standard_normal(SHAPE, dtype=np.float32)
    # Reconstruction correlates neighbours; the sum of two keeps it cheap.
    noise[:, 1:] += 0.6 * noise[:, :-1]
    noise[:, :, 1:] += 0.6 * noise[:, :, :-1]
    volume += np.float32(scan.noise_hu / 1.36) * noise
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


def lay_table(volume: np.ndarray, thorax: Thorax, scan: Scan) -> None:
    """A curved shell of foam and carbon under the back."""
    grid = thorax.grid
    back = np.flatnonzero((volume[SHAPE[0] // 2] > -500).any(1))[-1]
    x = grid.x[None, :]
    lower = grid.y[back] + 4 - x**2 / 900.0
    inside = grid.y[:, None] - lower
    upper, lower = (np.clip((inside - depth) / scan.spacing_mm[1] + 0.5, 0, 1) for depth in (0.0, 9.0))
    shell = ((upper - lower) * (np.abs(x) < 190)).astype(np.float32)
    volume += (volume < -950) * shell * np.float32(350.0)


def scan_mask(thorax: Thorax, occupancy: Occupancy, scan: Scan) -> np.ndarray:
    """A structure of the box on the canonical grid: bool, true where a slice is half filled."""
    whole = np.zeros(thorax.hu.shape, bool)
    whole[thorax.box] = occupancy >= 0.5
    # Either half will do: a small nodule counts in every slice that it touches.
    pairs = whole.reshape(SHAPE[0], FINER, *SHAPE[1:]).any(1)
    return turned(pairs.astype(np.uint8) * 255, scan.turn) >= 128
