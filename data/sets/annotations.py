"""Boxes, runs and nodules of a set's tables as fields of a record."""

from collections.abc import Sequence

import numpy as np
from nibabel import affines

from data.manifest.samples import Sample
from data.readers import geometry, volumes, xrays
from data.readers.files import BadInput, Note
from data.source import Example


def xray_with_boxes(sample: Sample, modality: str, note: Note) -> Example:
    """An X-ray and its `boxes` (n, 5): label, y0, x0, y1, x1 on the record.

    `sample.annotation` holds x0, y0, x1, y1 on the pixels of the file. Raises BadInput.
    """
    film = xrays.read_film(sample.file, note)
    height, width = film.stored
    boxes = np.zeros((len(sample.annotation), 5), np.float32)
    for box, (x0, y0, x1, y1) in zip(boxes, sample.annotation, strict=True):
        corners = np.clip([[y0, x0], [y1, x1]], 0, film.stored)
        if (corners != [[y0, x0], [y1, x1]]).any():
            note("boxes_clipped")
        if (corners[0] >= corners[1]).any():
            raise BadInput("mask_geometry", f"a box without area on its X-ray of {width} x {height} pixels")
        placed = np.sort(film.points(corners), axis=0)  # a turn may exchange the corners
        box[1:] = geometry.xray_points(placed, film.pixels.shape).ravel()
    return {"image": geometry.canonical_xray(film.pixels), "boxes": boxes}


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


def volume_with_nodules(sample: Sample, modality: str, note: Note) -> Example:
    """A CT with its nodules as `boxes` (n, 7) and balls in `lesion_mask`; `sample.annotation` holds x, y, z, diameter.

    These are world coordinates, LPS in millimetres as in ITK: the header's directions are honoured. Raises BadInput.
    """
    scan = volumes.read_ct(sample.file, note)
    volume, spacing = volumes.to_zyx(scan)
    small, spacing_mm = geometry.canonical_volume(volume, spacing)
    boxes, mask = balls(sample.annotation, scan.affine, volume.shape, spacing)
    return {"volume": small, "spacing_mm": spacing_mm, "boxes": boxes, "lesion_mask": mask}


def balls(
    nodules: Sequence[tuple[float, float, float, float]],
    affine: np.ndarray,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 7): label 0, z0, y0, x0, z1, y1, x1; and a mask of balls, 1, on the canonical grid.

    `affine` is that of a scan along the patient's axes, (x, y, z) indices to LPS; `shape` and `spacing` are (z, y, x).
    A ball smaller than a cell marks the cell that holds its middle. Raises BadInput for a nodule outside the scan.
    """
    boxes = np.zeros((len(nodules), 7), np.float32)
    mask = np.zeros(geometry.VOLUME_SHAPE, np.uint8)
    centres = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in mask.shape), indexing="ij"), axis=-1)
    for box, (*world, diameter) in zip(boxes, nodules, strict=True):
        index = affines.apply_affine(np.linalg.inv(affine), world)[::-1] + 0.5  # from the first cell's edge
        if (index < 0).any() or (index > shape).any():
            raise BadInput("mask_geometry", "a nodule lies outside its scan")
        reach = diameter / 2 / np.array(spacing)
        low, middle, high = geometry.canonical_points(np.stack([index - reach, index, index + reach]), shape, spacing)
        box[1:4], box[4:] = np.maximum(low, 0), np.minimum(high, mask.shape)
        mask[(((centres - middle) / (high - middle)) ** 2).sum(-1) <= 1] = 1
        mask[tuple(np.minimum(middle.astype(int), np.array(mask.shape) - 1))] = 1
    return boxes, mask
