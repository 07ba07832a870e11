"""From a record's grid back to the voxels of the file that it was made of, and masks of these voxels as NIfTI."""

from collections.abc import Callable
from typing import NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float, UInt8
from nibabel import affines
from scipy import ndimage

from data.readers import geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI counts toward Right and Anterior
Decide = Callable[[Float[np.ndarray, "y x c"]], UInt8[np.ndarray, "y x"]]


class Places(NamedTuple):
    """Where the voxels of a record and of its file lie: indices to millimetres toward the patient's L, P, S."""

    record: Float[np.ndarray, "4 4"]  # of the record's indices (z, y, x)
    shape: tuple[int, ...]  # of the file, in its own order of axes
    file: Float[np.ndarray, "4 4"]  # of the file's indices

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the file's voxels in mm, in its order of axes."""
        return tuple(affines.voxel_sizes(self.file))


def axis_weights(count: int, start: float, step: float, size: int) -> Float[np.ndarray, "count size"]:
    """The matrix that brings one axis of a record to so many voxels of a file.

    Voxel k lies at `start + k * step` in the record's `size` cells. Linear between the middles of the cells, or, where
    a voxel is longer than a cell, the mean of what it covers. A row of what the record does not reach is 0.
    """
    at = start + step * np.arange(count)
    cells = np.arange(size)
    if step > 1:
        edges = np.clip(at[:, None] + step / 2 * np.array([[-1, 1]]), -0.5, size - 0.5)
        covered = np.minimum(edges[:, 1:], cells + 0.5) - np.maximum(edges[:, :1], cells - 0.5)
        weights = np.clip(covered, 0, None)
        total = weights.sum(1, keepdims=True)
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 1e-9)
    else:
        inside = (at >= -0.5 - 1e-6) & (at <= size - 0.5 + 1e-6)
        nearest = np.clip(at, 0, size - 1)  # half a cell at the rim has one neighbour only
        weights = np.clip(1 - np.abs(nearest[:, None] - cells), 0, None) * inside[:, None]
    return weights.astype(np.float32)


def classes(logits: Float[np.ndarray, "z y x c"], places: Places, decide: Decide) -> UInt8[np.ndarray, "i j k"]:
    """Classes on the file's own voxels, by `decide` of logits (y, x, c) that were interpolated, not of classes.

    Slice by slice: logits of all voxels would be large. A tilted scan was read on a grid along the patient's axes, of
    which each of its voxels takes the nearest. What the record does not reach has logits of 0.
    """
    own = geometry.Grid(places.shape, places.file)
    straight = geometry.patient_grid(own)
    along_z, along_y, along_x = _weights(logits.shape[:3], places.record, straight)
    predicted = np.zeros(straight.shape, np.uint8)
    for index, row in enumerate(along_z):
        used = np.flatnonzero(row)
        if len(used):
            plane = np.moveaxis(np.tensordot(row[used], logits[used], 1), -1, 0)
            predicted[..., index] = decide(np.moveaxis(along_y @ plane @ along_x.T, 0, -1)).T
    pull = np.linalg.inv(straight.affine) @ own.affine
    return ndimage.affine_transform(predicted, pull[:3, :3], pull[:3, 3], own.shape, np.uint8, 0, mode="nearest")


def nifti(mask: UInt8[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> nibabel.Nifti1Image:
    """A mask on a file's voxels as a viewer lays it over the scan."""
    image = nibabel.Nifti1Image(mask, LPS_TO_RAS @ affine)
    image.header.set_xyzt_units("mm")
    return image


def _weights(shape: tuple[int, ...], record: Float[np.ndarray, "4 4"], grid: geometry.Grid) -> list[np.ndarray]:
    """A matrix for each of z, y, x: `record` goes from (z, y, x) to (x, y, z) mm, the grid lies along the axes."""
    matrices = []
    for axis, size in enumerate(shape):
        to = 2 - axis
        cell, voxel = record[to, axis], grid.affine[to, to]
        start = (grid.affine[to, 3] - record[to, 3]) / cell
        matrices.append(axis_weights(grid.shape[to], start, voxel / cell, size))
    return matrices
