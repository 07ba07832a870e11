"""From the record's grid back to a picture's own: masks on its pixels or voxels, boxes in its pixels."""

import pathlib

import cv2
import nibabel
import numpy as np
from jaxtyping import Float, UInt8
from nibabel import affines
from scipy import ndimage

from data.manifest.reading import PLAIN, Reading
from data.readers import ct_records, geometry, volumes
from data.readers.placement import Placement
from unimedi_jax.evaluation.segmenter import decide

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI counts toward Right and Anterior


def xray_mask(logits: Float[np.ndarray, "y x c"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Classes of an X-ray of `shape` from logits on the record's grid, whose padding is cut off."""
    size = len(logits)
    region = logits[geometry.xray_region(shape, size)]
    method = cv2.INTER_LINEAR if max(shape) > size else cv2.INTER_AREA
    # One by one: OpenCV takes means of areas of four channels at most.
    planes = np.ascontiguousarray(np.moveaxis(region, -1, 0), np.float32)
    planes = [cv2.resize(plane, shape[::-1], interpolation=method) for plane in planes]
    return decide(np.stack(planes, axis=-1))


def ct_mask(logits: Float[np.ndarray, "z y x c"], path: pathlib.Path, reading: Reading = PLAIN) -> nibabel.Nifti1Image:
    """Classes on the voxels of the CT at `path`, in its own order of axes and with its own affine.

    Logits are interpolated, not classes; outside what a record is cropped to all is background. A tilted
    scan was read on a grid along the patient's axes, of which each of its voxels takes the nearest.

    Raises:
        BadInput: the file cannot be read any more.
    """
    own = volumes.own_grid(path, reading.scans)
    straight, placed = ct_records.find(path, reading.grid, reading.scans)
    pull = np.linalg.inv(straight.affine) @ own.affine
    classes = _on_scan(logits, straight, placed)
    voxels = ndimage.affine_transform(classes, pull[:3, :3], pull[:3, 3], own.shape, np.uint8, 0, mode="nearest")
    image = nibabel.Nifti1Image(voxels, _affine(own, path))
    image.header.set_xyzt_units("mm")
    return image


def own_boxes(
    boxes: Float[np.ndarray, "n 4"], shape: tuple[int, int], size: int = geometry.XRAY_SIZE
) -> Float[np.ndarray, "n 4"]:
    """Boxes (y0, x0, y1, x1) of a record of `size` pixels in those of the X-ray of `shape` that it was made of.

    None lies outside it.
    """
    corners = boxes.reshape(-1, 2)
    return geometry.own_xray_points(corners, shape, size).reshape(-1, 4)


def _on_scan(
    logits: Float[np.ndarray, "z y x c"], grid: geometry.Grid, placed: Placement
) -> UInt8[np.ndarray, "i j k"]:
    """Classes (x, y, z) on a grid along the patient's axes; slice by slice, logits of all voxels would be large."""
    along_z, along_y, along_x = placed.back
    planes = np.moveaxis(logits, -1, 1).astype(np.float32)  # (z, c, y, x)
    classes = np.zeros(grid.shape, np.uint8)
    inside = classes[placed.box[::-1]]
    for index, row in enumerate(along_z):
        used = np.flatnonzero(row)
        plane = along_y @ np.tensordot(row[used], planes[used], 1) @ along_x.T
        inside[..., index] = decide(np.moveaxis(plane, 0, -1)).T
    return classes


def _affine(grid: geometry.Grid, path: pathlib.Path) -> np.ndarray:
    """Of a NIfTI as the file has it, to the last bit, unless its unit is not the millimetre."""
    affine = LPS_TO_RAS @ grid.affine
    if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
        own = nibabel.load(path).affine
        if np.allclose(own, affine, atol=0.01 * affines.voxel_sizes(affine).min()):
            return own
    return affine
