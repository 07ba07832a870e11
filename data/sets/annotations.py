"""Boxes, runs and nodules of a set's tables as fields of a record."""

import math
from collections.abc import Sequence

import numpy as np
from nibabel import affines

from data.manifest.samples import Sample
from data.readers import ct_records, geometry, xrays
from data.readers.files import BadInput, Note
from data.readers.placement import Placement
from data.record_grid import RecordGrid
from data.source import Example


def xray_with_boxes(
    sample: Sample, modality: str, note: Note, grid: RecordGrid, *, by_largest: bool = False
) -> Example:
    """An X-ray and its `boxes` (n, 5): label, y0, x0, y1, x1 on the record.

    `sample.annotation` holds x0, y0, x1, y1 on the pixels of the file. Raises BadInput.
    """
    film = xrays.read_film(sample.file, note, by_largest=by_largest)
    height, width = film.stored
    boxes = np.zeros((len(sample.annotation), 5), np.float32)
    for box, (x0, y0, x1, y1) in zip(boxes, sample.annotation, strict=True):
        corners = np.clip([[y0, x0], [y1, x1]], 0, film.stored)
        if (corners != [[y0, x0], [y1, x1]]).any():
            note("boxes_clipped")
        if (corners[0] >= corners[1]).any():
            raise BadInput("mask_geometry", f"a box without area on its X-ray of {width} x {height} pixels")
        placed = np.sort(film.points(corners), axis=0)  # a turn may exchange the corners
        box[1:] = geometry.xray_points(placed, film.pixels.shape, grid.film_size).ravel()
    return {"image": geometry.canonical_xray(film.pixels, grid.film_size), "boxes": boxes}


def relative_runs(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask bool (y, x) of SIIM-ACR's runs: pairs of a gap since the last run's end and a length, column by column.

    Kaggle's usual runs start from the first pixel; these do not. Raises BadInput.
    """
    try:
        numbers = np.array([int(part) for part in text.split()])
    except ValueError as error:
        raise BadInput("mask_values", "a mask's runs are no whole numbers") from error
    if len(numbers) % 2 or (numbers < 0).any():
        raise BadInput("mask_values", "a mask's runs are no pairs of gap and length")
    height, width = shape
    ends = np.cumsum(numbers)  # of gaps and lengths alternately
    if len(ends) and ends[-1] > height * width:
        raise BadInput("mask_geometry", f"a mask's runs are longer than its X-ray of {width} x {height} pixels")
    flat = np.zeros(height * width, bool)
    for start, end in zip(ends[0::2], ends[1::2], strict=True):
        flat[start:end] = True
    return flat.reshape(width, height).T


def volume_with_nodules(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """A CT with its nodules as `boxes` (n, 7) and balls in `lesion_mask`; `sample.annotation` holds x, y, z, diameter.

    These are world coordinates, LPS in millimetres as in ITK: the header's directions are honoured. Raises BadInput.
    """
    fields, placed, scan = ct_records.read(sample.file, grid, note)
    boxes, mask = balls(sample.annotation, scan, placed)
    return {**fields, "boxes": boxes, "lesion_mask": mask}


def volume_with_candidates(sample: Sample, modality: str, note: Note, grid: RecordGrid) -> Example:
    """The same with `candidates` (n, 4): class, z, y, x on the record, from its first edge; and `excluded` (n, 4).

    That is z, y, x on the record and a diameter in mm, of findings that count for nothing. In world coordinates
    `sample.annotation` holds nodules, candidates (class, x, y, z) and excluded findings (x, y, z, diameter). Raises
    BadInput.
    """
    nodules, candidates, excluded = sample.annotation
    fields, placed, scan = ct_records.read(sample.file, grid, note)
    boxes, mask = balls(nodules, scan, placed)
    proposed, left_out = (np.array(rows, np.float64).reshape(-1, 4) for rows in (candidates, excluded))
    proposed[:, 1:] = placed.points(_on_scan(proposed[:, 1:], scan))
    left_out[:, :3] = placed.points(_on_scan(left_out[:, :3], scan))
    marks = {"candidates": proposed.astype(np.float32), "excluded": left_out.astype(np.float32)}
    return {**fields, "boxes": boxes, "lesion_mask": mask, **marks}


def _on_scan(world: np.ndarray, scan: geometry.Grid) -> np.ndarray:
    """World coordinates (n, 3) as z, y, x of a scan, from its first edge."""
    return affines.apply_affine(np.linalg.inv(scan.affine), world)[:, ::-1] + 0.5


def balls(
    nodules: Sequence[tuple[float, float, float, float]], scan: geometry.Grid, placed: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 7): label 0, z0, y0, x0, z1, y1, x1; and a mask of balls, 1, on the record where `placed` puts `scan`.

    `scan` lies along the patient's axes. A ball smaller than a cell marks the cell that holds its middle; one outside
    the part that the record is cropped to is left out. Raises BadInput for a nodule outside the scan.
    """
    rows = []
    mask = np.zeros(placed.shape, np.uint8)
    to_index = np.linalg.inv(scan.affine)
    for *world, diameter in nodules:
        index = affines.apply_affine(to_index, world)[::-1] + 0.5  # from the first cell's edge
        if (index < 0).any() or (index > scan.shape[::-1]).any():
            raise BadInput("mask_geometry", "a nodule lies outside its scan")
        reach = diameter / 2 / np.array(placed.spacing)
        low, middle, high = placed.points(np.stack([index - reach, index, index + reach]))
        start, stop = np.maximum(low, 0), np.minimum(high, mask.shape)
        if (start >= stop).any():
            continue
        rows.append([0, *start, *stop])
        window = tuple(slice(int(first), math.ceil(last)) for first, last in zip(start, stop, strict=True))
        centres = np.stack(np.meshgrid(*(np.arange(w.start, w.stop) + 0.5 for w in window), indexing="ij"), axis=-1)
        ball = (((centres - middle) / (high - middle)) ** 2).sum(-1) <= 1
        mask[window][ball] = 1
        mask[tuple(np.clip(middle.astype(int), 0, np.array(mask.shape) - 1))] = 1
    return np.array(rows, np.float32).reshape(-1, 7), mask
