"""The phantom's CT: a thorax sampled on the grid of the set's records, with noise, pose and a table."""

import dataclasses

import cv2
import numpy as np
from nibabel import affines

from data import record_grid
from data.phantom.patient import Patient, Thorax
from data.phantom.shapes import Grid, Occupancy
from data.readers.placement import cells_along
from data.record_grid import RecordGrid

SHAPE = record_grid.DEFAULT.volume  # by which the field is drawn
FINER, THICK_MM = 2, 5.0  # slices computed for each slice of the scan that is thicker than so


@dataclasses.dataclass(frozen=True)
class Scan:
    """How one CT was taken."""

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # centre of the first voxel, patient's frame
    turn: float  # degrees around the long axis
    noise_hu: float
    table: bool
    shape: tuple[int, int, int] = SHAPE

    @property
    def finer(self) -> int:
        """Slices computed for each slice of the scan."""
        return FINER if self.spacing_mm[0] > THICK_MM else 1

    @property
    def affine(self) -> np.ndarray:
        """Index (z, y, x) to mm toward Left, Posterior, Superior (4, 4): the axes (x, y, z) of the patient's frame."""
        return affines.from_matvec(np.diag(self.spacing_mm)[::-1], self.origin_mm[::-1])


def draw_scan(patient: Patient, rng: np.random.Generator, grid: RecordGrid = record_grid.DEFAULT) -> Scan:
    """Draws field of view, slice thickness, pose and noise of one scan; `grid` says how fine it is, no more."""
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
    scan = Scan(spacing, origin, turn, noise_hu=rng.uniform(8, 26), table=rng.random() < 0.7)
    return scan if grid.plain_volumes else _regridded(scan, grid)


def _regridded(scan: Scan, grid: RecordGrid) -> Scan:
    """The same scan in voxels of another size: the field stays."""
    field = np.array(scan.shape) * scan.spacing_mm
    shape = grid.volume
    if grid.spacing_mm:
        shape = tuple(cells_along(*axis) for axis in zip(field, grid.spacing_mm, strict=True))
    spacing = np.array(grid.spacing_mm or field / shape)
    centre = scan.origin_mm + (np.array(scan.shape) - 1) / 2 * scan.spacing_mm
    origin = centre - (np.array(shape) - 1) / 2 * spacing
    return dataclasses.replace(scan, spacing_mm=tuple(spacing.tolist()), origin_mm=tuple(origin.tolist()), shape=shape)


def scan_grid(scan: Scan) -> Grid:
    """The grid to draw on: the scan's own, with each thick slice cut in two."""
    thick, pixel, width = scan.spacing_mm
    z0 = scan.origin_mm[0] - (thick / 4 if scan.finer > 1 else 0)
    z = z0 + thick / scan.finer * np.arange(scan.finer * scan.shape[0])
    y = scan.origin_mm[1] + pixel * np.arange(scan.shape[1])
    x = scan.origin_mm[2] + width * np.arange(scan.shape[2])
    return Grid(z.astype(np.float32), y.astype(np.float32), x.astype(np.float32))


def turned(volume: np.ndarray, degrees: float) -> np.ndarray:
    """Turns every slice of (z, y, x) about its centre."""
    size = (volume.shape[2], volume.shape[1])
    matrix = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), degrees, 1.0)
    return np.stack([cv2.warpAffine(plane, matrix, size, borderMode=cv2.BORDER_REPLICATE) for plane in volume])


def take_scan(thorax: Thorax, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """The CT of a thorax: int16 in HU, of the scan's shape."""
    pairs = thorax.hu.reshape(scan.shape[0], scan.finer, *scan.shape[1:]).mean(1)
    volume = turned(pairs, scan.turn)
    if scan.table:
        lay_table(volume, thorax, scan)
    noise = rng.standard_normal(scan.shape, dtype=np.float32)
    # Reconstruction correlates neighbours; the sum of two keeps it cheap.
    noise[:, 1:] += 0.6 * noise[:, :-1]
    noise[:, :, 1:] += 0.6 * noise[:, :, :-1]
    volume += np.float32(scan.noise_hu / 1.36) * noise
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


def lay_table(volume: np.ndarray, thorax: Thorax, scan: Scan) -> None:
    """A curved shell of foam and carbon under the back."""
    grid = thorax.grid
    back = np.flatnonzero((volume[scan.shape[0] // 2] > -500).any(1))[-1]
    x = grid.x[None, :]
    lower = grid.y[back] + 4 - x**2 / 900.0
    inside = grid.y[:, None] - lower
    upper, lower = (np.clip((inside - depth) / scan.spacing_mm[1] + 0.5, 0, 1) for depth in (0.0, 9.0))
    shell = ((upper - lower) * (np.abs(x) < 190)).astype(np.float32)
    volume += (volume < -950) * shell * np.float32(350.0)


def scan_mask(thorax: Thorax, occupancy: Occupancy, scan: Scan) -> np.ndarray:
    """A structure of the box on the scan's grid: bool, true where a slice is half filled."""
    whole = np.zeros(thorax.hu.shape, bool)
    whole[thorax.box] = occupancy >= 0.5
    # Either half will do: a small nodule counts in every slice that it touches.
    pairs = whole.reshape(scan.shape[0], scan.finer, *scan.shape[1:]).any(1)
    return turned(pairs.astype(np.uint8) * 255, scan.turn) >= 128
