"""A CT as the fields of a record, on the grid of its set: pixels, geometry, and masks beside them."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel import affines, orientations

from data.readers import body_box, geometry, payload, placement, volumes
from data.readers.files import BadInput, Note, ignore_note
from data.readers.geometry import Grid, Scan
from data.readers.placement import Placement
from data.readers.scan_table import TableFacts
from data.record_grid import MOST_VOXELS, RecordGrid
from data.source import Example

ORIGINAL = "original_"  # how the fields of a file's own voxels begin
RECORD_BYTES, MASK_BYTES = 2, 2  # for each voxel of a record: itself; a mask, and where one object of it lies
UNPLACED = np.diag([np.nan, np.nan, np.nan, 1.0])  # the affine of a scan whose file does not say how it lies


class PlacedScan(NamedTuple):
    """A CT that has been read: the fields of its record, and how it came to lie there."""

    fields: Example
    placed: Placement
    scan: Grid  # along the patient's axes, in the order (x, y, z)


def read(
    path: Path,
    grid: RecordGrid,
    note: Note = ignore_note,
    rules: volumes.Rules = volumes.STRICT,
    facts: TableFacts | None = None,
) -> PlacedScan:
    """A CT of a file or a series: `volume` int16 HU (z, y, x), `spacing_mm` float32 (3,), and its geometry.

    The geometry stands in the record unless the grid is the default: `affine` float64 (4, 4) from the record's index
    (z, y, x), and `original_affine` float64 (4, 4) from the file's own index, both to mm toward the patient's Left,
    Posterior, Superior (whole numbers are the middles of voxels); and `original_shape` int32 (3,). `facts` as of
    `volumes.read_own_ct`. Raises BadInput.
    """
    scan, own = volumes.read_own_ct(path, note, rules, facts)
    return of_scan(scan, own, grid)


def find(path: Path, grid: RecordGrid, rules: volumes.Rules = volumes.STRICT) -> tuple[Grid, Placement]:
    """The grid along the patient's axes on which `read` lays a CT, and where it lies on the record.

    By the headers alone, unless records are cropped to what pixels show. Raises BadInput.
    """
    if grid.crop_to:
        placed = read(path, grid, rules=rules)
        return placed.scan, placed.placed
    straight = volumes.straight_grid(path, rules)
    spacing = volumes.rounded(affines.voxel_sizes(straight.affine)[::-1])
    return straight, placement.place(spacing, grid, tuple(slice(0, n) for n in straight.shape[::-1]))


class MaskFile(NamedTuple):
    """The mask of a CT in a file of its own."""

    path: Path
    field: str  # of the record
    value: int | None = None  # of whatever is not 0 in it; None: the mask's own numbers


def read_with_mask(
    path: Path, mask: MaskFile, grid: RecordGrid, note: Note = ignore_note, rules: volumes.Rules = volumes.STRICT
) -> Example:
    """The fields that `read` gives, and the mask on the same grid: uint8 (z, y, x), 0 or a value.

    Unless the grid is the default, `original_<field>` is the mask on the scan's own voxels, in the order of its file:
    what predictions are measured against. Raises BadInput.
    """
    scan, own = volumes.read_own_ct(path, note, rules)
    objects, turned = volumes.read_mask(mask.path, scan, own_numbers=mask.value is None, rules=rules)
    fields, placed, _ = of_scan(scan, own, grid, masked=True)
    del scan  # a mask at the scanner's resolution needs its room
    fields[mask.field] = mask_on(objects.voxels.transpose(2, 1, 0), placed, mask.value, grid)
    if not grid.plain_volumes:
        fields[ORIGINAL + mask.field] = on_file(turned, own, mask.value)
    return fields


def on_file(turned: np.ndarray, own: Grid, value: int | None) -> np.ndarray:
    """A mask (x, y, z) toward the patient's L, P, S, in the order of its scan's file: uint8, numbers or `value`.

    Raises BadInput for more voxels than a record may hold.
    """
    if turned.size > MOST_VOXELS:
        raise BadInput("too_large", f"a mask of {turned.size:,} voxels, at most {MOST_VOXELS:,}")
    change = orientations.io_orientation(own.affine)
    back = np.empty_like(change)
    back[change[:, 0].astype(int)] = np.column_stack([np.arange(3), change[:, 1]])
    mask = orientations.apply_orientation(turned, back)
    return np.ascontiguousarray(mask if value is None else np.where(mask != 0, np.uint8(value), np.uint8(0)), np.uint8)


def of_scan(scan: Scan, own: Grid, grid: RecordGrid, *, masked: bool = False) -> PlacedScan:
    """The fields of a scan along the patient's axes, whose file has the grid `own`; `masked`: a mask comes beside it.

    Raises BadInput for a record that does not fit the memory of a worker, and for a scan without what it is cropped to.
    """
    hu, spacing = volumes.to_zyx(scan)
    placed = _placed(hu, spacing, grid, masked=masked)
    fields = _pixels(hu, spacing, placed, grid)
    if not grid.plain_volumes:
        fields |= _geometry(placed.affine(scan.affine), own)
    return PlacedScan(fields, placed, Grid(scan.voxels.shape, scan.affine))


def of_array(hu: np.ndarray, spacing: tuple[float, float, float] | None, grid: RecordGrid) -> Example:
    """The fields of HU (z, y, x), integers or floats, of a set whose files say no more than a `spacing` in mm, or None.

    Where spacing or place are unknown, what would tell them is NaN. Raises BadInput.
    """
    if spacing is None and (grid.spacing_mm or grid.crop_to):
        raise BadInput("bad_spacing", "the set has no spacing: give config.volume, not config.spacing_mm or crop_to")
    mm = spacing or (1.0, 1.0, 1.0)
    placed = _placed(hu, mm, grid)
    fields = _pixels(hu, mm, placed, grid)
    if not grid.plain_volumes:
        affine = placed.affine(np.diag([*mm[::-1], 1.0])) if spacing else UNPLACED
        own = np.diag([*mm, 1.0])[[2, 1, 0, 3]] if spacing else UNPLACED  # the array's order is (z, y, x)
        fields |= _geometry(affine, Grid(hu.shape, own))
    return fields if spacing else fields | {"spacing_mm": np.full(3, np.nan, np.float32)}


def mask_on(mask: np.ndarray, placed: Placement, value: int | None, grid: RecordGrid) -> np.ndarray:
    """A mask (z, y, x) of a scan on its record, uint8: 0 and `value`, or with None the objects' own numbers."""
    if grid.plain_volumes:
        return geometry.canonical_mask(mask, placed.weights, value)
    return placement.mask_on(mask, placed, value)


def _placed(
    hu: np.ndarray, spacing: tuple[float, float, float], grid: RecordGrid, *, masked: bool = False
) -> Placement:
    """Where a scan comes to lie. Raises BadInput where the record would not fit the memory of a worker beside it."""
    placed = placement.place(spacing, grid, body_box.of(hu, spacing, grid.crop_to))
    if not grid.plain_volumes:
        record = math.prod(placed.shape) * (RECORD_BYTES + masked * MASK_BYTES)
        more = record + placement.SLAB * placement.SLAB_BYTES + masked * hu.size * volumes.MASK_BYTES
        payload.check_memory(hu.shape, hu.itemsize, more=more)
    return placed


def _pixels(hu: np.ndarray, spacing: tuple[float, float, float], placed: Placement, grid: RecordGrid) -> Example:
    if grid.plain_volumes:
        volume, spacing_mm = geometry.canonical_volume(hu, spacing)
        return {"volume": volume, "spacing_mm": spacing_mm}
    return {"volume": placement.volume_on(hu, placed), "spacing_mm": placed.spacing_mm}


def _geometry(affine: np.ndarray, own: Grid) -> Example:
    return {
        "affine": np.asarray(affine, np.float64),
        "original_shape": np.array(own.shape, np.int32),
        "original_affine": np.asarray(own.affine, np.float64),
    }
