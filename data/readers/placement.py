"""Where a scan comes to lie on the grid of a set's records: its box, the resampling of each axis, and affines."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from data.readers import geometry
from data.readers.geometry import AIR_HU, Weights
from data.record_grid import RecordGrid

SLAB, SLAB_BYTES = 1 << 22, 16  # voxels of a record that are floats at a time; what each takes, with copies
Box = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a scan (z, y, x) along the patient's axes becomes a record's volume.

    Records and scans have the same axes; along each of them `weights` bring the scan's `box` onto the record.
    """

    box: Box
    weights: Weights
    spacing: tuple[float, float, float]  # of the scan, mm
    spacing_mm: np.ndarray  # of the record, float32 (3,)
    field: tuple[float, ...]  # of the record, mm: float32 would round it

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the record."""
        return tuple(len(w) for w in self.weights)

    @functools.cached_property
    def _start(self) -> np.ndarray:
        """How far the box's first edge lies inside the record's, in mm: both have one centre."""
        extent = np.array([w.shape[1] for w in self.weights]) * self.spacing
        return (self.spacing_mm * [len(w) for w in self.weights] - extent) / 2

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) of the scan lie on the record.

        Both count from the edge of the first cell: the middle of cell k is at k + 0.5.
        """
        inside = np.asarray(points, np.float64) - [part.start for part in self.box]
        return (inside * self.spacing + self._start) / self.spacing_mm

    @property
    def back(self) -> Weights:
        """The three matrices of the way back, from the record onto the box of the scan."""
        axes = zip(self.weights, self.field, self.spacing, strict=True)
        return tuple(
            geometry.axis_weights(len(w), whole / len(w), w.shape[1], w.shape[1] * mm) for w, whole, mm in axes
        )

    def affine(self, scan_affine: np.ndarray) -> np.ndarray:
        """Record index (z, y, x) to mm toward the patient's Left, Posterior, Superior: float64 (4, 4).

        Whole numbers are the middles of voxels, as in NIfTI and ITK. `scan_affine` (4, 4) is that of the scan in the
        order (x, y, z).
        """
        step = self.spacing_mm.astype(np.float64) / self.spacing
        first = [part.start for part in self.box] + (0.5 * self.spacing_mm - self._start) / self.spacing - 0.5
        to_scan = np.eye(4)
        to_scan[:3, :3], to_scan[:3, 3] = np.diag(step)[::-1], first[::-1]
        return scan_affine @ to_scan


def place(spacing: tuple[float, float, float], grid: RecordGrid, box: Box) -> Placement:
    """The placement of the `box` of a scan of `spacing` mm, both (z, y, x).

    By `grid.spacing_mm`, of which 0 is the scan's own, a record has the box's extent to the nearest whole voxel: at a
    border half a voxel may lie outside, which takes the value of the half that does not. Otherwise the whole box comes
    onto `grid.volume`.
    """
    size = tuple(part.stop - part.start for part in box)
    if not grid.spacing_mm:
        weights, spacing_mm = geometry.canonical_weights(size, spacing, grid.volume)
        return Placement(box, weights, spacing, spacing_mm, geometry.whole_field(size, spacing, grid.volume))
    weights, asked = [], tuple(new or mm for new, mm in zip(grid.spacing_mm, spacing, strict=True))
    for n, mm, new in zip(size, spacing, asked, strict=True):
        cells = cells_along(n * mm, new)
        rows = geometry.axis_weights(n, mm, cells, cells * new)
        weights.append(rows / rows.sum(1, keepdims=True))
    field = tuple(len(rows) * new for rows, new in zip(weights, asked, strict=True))
    return Placement(box, tuple(weights), spacing, np.array(asked, np.float32), field)


def cells_along(extent: float, spacing: float) -> int:
    """Voxels of `spacing` mm along an axis of `extent` mm: to the nearest whole one, at least one."""
    return max(1, round(extent / spacing))


def volume_on(scan: np.ndarray, placed: Placement) -> np.ndarray:
    """HU (z, y, x) of a scan as the record's int16 HU; the field around the scan is filled with AIR_HU.

    Slab by slab: of the record only SLAB voxels are floats at a time.
    """
    along_z, along_y, along_x = placed.weights
    covered_z, covered = along_z.sum(1), np.outer(along_y.sum(1), along_x.sum(1))
    out = np.empty(placed.shape, np.int16)
    for rows in _slabs(placed.shape):
        hu = geometry.resample(scan[placed.box], (along_z[rows], along_y, along_x))
        hu += AIR_HU * (1 - covered_z[rows, None, None] * covered)
        out[rows] = np.rint(hu, out=hu)
    return out


def mask_on(mask: np.ndarray, placed: Placement, value: int | None) -> np.ndarray:
    """The objects of a scan's mask (z, y, x) on the record, by the rule of `geometry.canonical_mask`.

    Each is looked at in the box around it alone, which saves most of the work. uint8: 0 and `value`, or with None the
    objects' own numbers.
    """
    out = np.zeros(placed.shape, np.uint8)
    part = mask[placed.box]
    for number, around in enumerate(ndimage.find_objects(part), start=1):
        if around is None:
            continue
        cells = tuple(_reached(rows[:, near]) for rows, near in zip(placed.weights, around, strict=True))
        weights = tuple(rows[to, near] for rows, to, near in zip(placed.weights, cells, around, strict=True))
        if all(w.size for w in weights):
            out[cells][_object_on(part[around] == number, weights)] = number if value is None else value
    return out


def _object_on(occupied: np.ndarray, weights: Weights) -> np.ndarray:
    """Where at least half of an object's best coverage is: bool. The best is 1 but for what is smaller than a cell."""
    inside, best = _covered(occupied, weights, 0.5)
    return inside if best >= 1 - 1e-6 else _covered(occupied, weights, max(best / 2, 1e-6))[0]


def _covered(occupied: np.ndarray, weights: Weights, least: float) -> tuple[np.ndarray, float]:
    """Where a record's cells are covered by `least`, and the best coverage of any."""
    along_z, along_y, along_x = weights
    inside, best = np.empty(tuple(len(w) for w in weights), bool), 0.0
    for rows in _slabs(inside.shape):
        share = geometry.resample(occupied, (along_z[rows], along_y, along_x))
        inside[rows], best = share >= least, max(best, float(share.max()))
    return inside, best


def _reached(rows: np.ndarray) -> slice:
    """The cells of a record to which some cells of a scan give weight."""
    cells = np.flatnonzero(rows.any(1))
    return slice(int(cells[0]), int(cells[-1]) + 1) if len(cells) else slice(0, 0)


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, SLAB // (shape[1] * shape[2]))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))
