"""One geometry for everything: axes (z, y, x) growing to Superior, Posterior, Left, and exact separable resampling."""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from nibabel import affines, orientations
from scipy import ndimage

from data import record_grid

XRAY_SIZE, VOLUME_SHAPE = record_grid.DEFAULT.film_size, record_grid.DEFAULT.volume
AIR_HU = -1024
HIGHEST_HU = 3071  # the end of 12 bits; only metal is denser, and would outshine its neighbours in a mean

MIN_TILT_DEGREES = 1.0  # below it a scan counts as lying along the axes
MAX_TILT_DEGREES = 30.0
Cells = tuple[int, ...]  # of a grid, (z, y, x)
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # one matrix an axis, as `axis_weights` makes it


@dataclasses.dataclass(frozen=True)
class Scan:
    """A volume as it was read. `voxels` (i, j, k); `affine` (4, 4): index to millimetres toward L, P, S."""

    voxels: np.ndarray
    affine: np.ndarray


class Grid(NamedTuple):
    """Where a volume's voxels lie: `shape` (i, j, k); `affine` (4, 4): index to millimetres toward L, P, S."""

    shape: tuple[int, ...]
    affine: np.ndarray


class TiltError(ValueError):
    """The scan's axes are too far from the patient's."""


def tilt_degrees(affine: np.ndarray) -> float:
    """The largest angle between an index axis of an (already reoriented) affine and its patient axis."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(directions), -1.0, 1.0))).max())


def reorient(scan: Scan) -> Scan:
    """The same scan with axes (x, y, z) that grow toward L, P, S as nearly as its own axes allow; a view."""
    change = orientations.io_orientation(scan.affine)
    voxels = orientations.apply_orientation(scan.voxels, change)
    return Scan(voxels, scan.affine @ orientations.inv_ornt_aff(change, scan.voxels.shape))


def straighten(scan: Scan, *, order: int, outside: float) -> Scan:
    """Lays a reoriented scan along the patient's axes, if it is tilted (gantry tilt, oblique series).

    `order` 1 interpolates linearly, 0 takes the nearest voxel; what the scan does not reach becomes `outside`.
    Raises TiltError above MAX_TILT_DEGREES.
    """
    grid = straight_grid(Grid(scan.voxels.shape, scan.affine))
    if grid.affine is scan.affine:
        return scan
    pull = np.linalg.inv(scan.affine) @ grid.affine
    dtype = np.float32 if order else scan.voxels.dtype
    voxels = ndimage.affine_transform(scan.voxels, pull[:3, :3], pull[:3, 3], grid.shape, dtype, order, cval=outside)
    if order and np.issubdtype(scan.voxels.dtype, np.integer):
        voxels = np.rint(voxels, out=voxels).astype(scan.voxels.dtype)
    return Scan(voxels, grid.affine)


def straight_grid(grid: Grid) -> Grid:
    """The grid along the patient's axes on which `straighten` lays a scan; the same one where it is not tilted.

    Raises TiltError above MAX_TILT_DEGREES.
    """
    tilt = tilt_degrees(grid.affine)
    if tilt <= MIN_TILT_DEGREES:
        return grid
    if tilt > MAX_TILT_DEGREES:
        raise TiltError(f"the axes lie {tilt:.0f} degrees off the patient's, at most {MAX_TILT_DEGREES:.0f}")
    last = np.array(grid.shape) - 1
    corners = affines.apply_affine(grid.affine, np.array(list(np.ndindex(2, 2, 2))) * last)
    spacing = affines.voxel_sizes(grid.affine)
    low, high = corners.min(0), corners.max(0)
    shape = np.floor((high - low) / spacing + 1e-6).astype(int) + 1
    return Grid(tuple(int(n) for n in shape), affines.from_matvec(np.diag(spacing), low))


def patient_grid(grid: Grid) -> Grid:
    """The grid that `reorient` and `straighten` make of a file's own: axes (x, y, z) toward L, P, S."""
    change = orientations.io_orientation(grid.affine)
    shape = tuple(grid.shape[int(axis)] for axis in np.argsort(change[:, 0]))
    return straight_grid(Grid(shape, grid.affine @ orientations.inv_ornt_aff(change, grid.shape)))


def straight_shape(scan: Scan) -> tuple[int, ...]:
    """The shape of the grid on which `straighten` lays a reoriented scan; empty where it leaves the scan's own."""
    own = Grid(scan.voxels.shape, scan.affine)
    if tilt_degrees(scan.affine) > MAX_TILT_DEGREES or (grid := straight_grid(own)) is own:
        return ()
    return grid.shape


def axis_weights(size: int, spacing: float, out_size: int, field: float) -> np.ndarray:
    """The matrix (out_size, size) that resamples one axis onto a field of `field` mm with the same centre.

    Shrinking, an output cell is the mean of what it covers, by exact overlap, so nothing is aliased; growing, it
    is linear between the centres of the source cells. Where the source covers the cell, the row's sum is 1; what
    is missing to 1 is the share outside the source.
    """
    out_spacing = field / out_size
    start = (field - size * spacing) / 2  # where the source's first edge lies in the field
    edges = np.arange(out_size + 1) * out_spacing - start
    if out_spacing > spacing:
        source = np.arange(size + 1) * spacing
        low = np.maximum(edges[:-1, None], source[None, :-1])
        high = np.minimum(edges[1:, None], source[None, 1:])
        weights = np.clip(high - low, 0, None) / out_spacing
    else:
        position = (edges[:-1] + edges[1:]) / 2 / spacing - 0.5
        inside = (position >= -0.5 - 1e-9) & (position <= size - 0.5 + 1e-9)
        nearest = np.clip(position, 0, size - 1)  # half a cell at the rim has one neighbour only
        weights = np.clip(1 - np.abs(nearest[:, None] - np.arange(size)), 0, None) * inside[:, None]
    # Rounding must not leave a row at 0.9999999 and let a trace of the outside in.
    total = weights.sum(1, keepdims=True)
    weights = np.where(np.abs(total - 1) < 1e-6, weights / np.where(total == 0, 1, total), weights)
    return weights.astype(np.float32)


def whole_field(shape: tuple[int, ...], spacing: tuple[float, ...], cells: Cells = VOLUME_SHAPE) -> tuple[float, ...]:
    """The field (z, y, x) in mm that a whole scan is brought onto `cells` with.

    In plane it is the smallest around the scan with the proportions of `cells`, by default a square as large as the
    scan's longer side: both spacings agree.
    """
    z, y, x = np.array(shape) * np.array(spacing)
    return z, max(y, x * cells[1] / cells[2]), max(x, y * cells[2] / cells[1])


def canonical_weights(
    shape: tuple[int, ...], spacing: tuple[float, ...], cells: Cells = VOLUME_SHAPE
) -> tuple[Weights, np.ndarray]:
    """The three matrices that bring a (z, y, x) scan of `spacing` mm onto `cells`, and its new spacing (3,)."""
    field = whole_field(shape, spacing, cells)
    axes = zip(shape, spacing, cells, field, strict=True)
    weights = tuple(axis_weights(*axis) for axis in axes)
    return weights, np.array([f / n for f, n in zip(field, cells, strict=True)], np.float32)


def resample(volume: np.ndarray, weights: Weights) -> np.ndarray:
    """Applies one matrix an axis to a (z, y, x) volume; float32. The outside counts as zero.

    Slab by slab: a scan of 1,500 slices is never in memory as floats.
    """
    along_z, along_y, along_x = weights
    out = np.empty(tuple(len(w) for w in weights), np.float32)
    for index, row in enumerate(along_z):
        used = np.flatnonzero(row)
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
        slab = volume[low:high].astype(np.float32)
        plane = (row[low:high] @ slab.reshape(high - low, -1)).reshape(slab.shape[1:])
        out[index] = along_y @ plane @ along_x.T
    return out


def canonical_volume(volume: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """HU (z, y, x) of any size -> int16 HU of VOLUME_SHAPE, and its spacing float32 (3,) in mm.

    The square field around the scan is filled with AIR_HU.
    """
    weights, spacing_mm = canonical_weights(volume.shape, spacing)
    covered = np.einsum("i,j,k->ijk", *(w.sum(1) for w in weights))
    hu = resample(volume, weights) + AIR_HU * (1 - covered)
    return np.rint(hu).astype(np.int16), spacing_mm


def canonical_mask(mask: np.ndarray, weights: tuple[np.ndarray, ...], value: int | None) -> np.ndarray:
    """Non-zero voxels of a mask, (z, y, x) or (y, x), on the canonical grid as uint8 0 or `value` (None: their own).

    Each number in the mask is one object. A cell belongs to it from half of the object's best coverage on: that is
    the majority rule for what is larger than a cell, and keeps what is smaller.
    """
    out = np.zeros(tuple(len(w) for w in weights), np.uint8)
    for number in np.unique(mask):
        if number == 0:
            continue
        shape = (1,) * (3 - mask.ndim) + mask.shape
        ones = (np.eye(1, dtype=np.float32),) * (3 - mask.ndim)
        covered = resample((mask == number).reshape(shape), (*ones, *weights)).reshape(out.shape)
        out[covered >= max(covered.max() / 2, 1e-6)] = number if value is None else value
    return out


def xray_points(points: np.ndarray, shape: tuple[int, int], size: int = XRAY_SIZE) -> np.ndarray:
    """Where points (n, 2), (y, x) from an X-ray's upper left corner, lie on the image of `canonical_xray`."""
    fitted = np.array(_fitted(shape, size))
    return np.asarray(points, np.float64) * fitted / shape + (size - fitted) // 2


def own_xray_points(points: np.ndarray, shape: tuple[int, int], size: int = XRAY_SIZE) -> np.ndarray:
    """The way back: where points (n, 2) of the canonical image lie on an X-ray of `shape`, none outside it."""
    fitted = np.array(_fitted(shape, size))
    own = (np.asarray(points, np.float64) - (size - fitted) // 2) * shape / fitted
    return np.clip(own, 0, shape)


def xray_region(shape: tuple[int, int], size: int = XRAY_SIZE) -> tuple[slice, slice]:
    """Where in the canonical image an X-ray of `shape` lies; the rest is padding."""
    starts = (((size - n) // 2, n) for n in _fitted(shape, size))
    return tuple(slice(start, start + n) for start, n in starts)


def _fitted(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The shape of an X-ray whose longest side is shrunk or grown to `size`."""
    return tuple(max(1, round(n * size / max(shape))) for n in shape)


def canonical_xray(xray: np.ndarray, size: int = XRAY_SIZE) -> np.ndarray:
    """An X-ray (y, x), uint8, -> uint8 (size, size): longest side fitted, same aspect, zeros around it."""
    fitted = _fitted(xray.shape, size)[::-1]
    method = cv2.INTER_AREA if max(xray.shape) > size else cv2.INTER_LINEAR
    return _pad(cv2.resize(xray, fitted, interpolation=method), size)


def canonical_xray_mask(mask: np.ndarray, value: int, size: int = XRAY_SIZE) -> np.ndarray:
    """The mask (y, x) of an X-ray in the place where `canonical_xray` puts the X-ray; uint8 0 or `value`."""
    sides = zip(mask.shape, _fitted(mask.shape, size), strict=True)
    weights = tuple(axis_weights(n, 1.0, out, float(n)) for n, out in sides)
    return _pad(canonical_mask(mask, weights, value), size)


def _pad(image: np.ndarray, size: int) -> np.ndarray:
    """Centres a (y, x) image of at most `size` in a square of zeros."""
    top, left = ((size - n) // 2 for n in image.shape)
    out = np.zeros((size, size), image.dtype)
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out
