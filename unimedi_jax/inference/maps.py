"""Where the network attends: attention over an X-ray, chosen slices of a CT, attention on a CT's own voxels."""

import pathlib
from typing import Any

import cv2
import nibabel
import numpy as np
from nibabel import affines, orientations

from data.readers import geometry, volumes, xrays
from unimedi_jax.inference import sources
from unimedi_jax.inference.pretrained import Pretrained

Window = tuple[float, float]
SCALE = 3  # pixels of the picture for one of the record


def write(stem: pathlib.Path, item: sources.Item, pixels: np.ndarray, features: Any, trained: Pretrained) -> None:
    """`<stem>.attention.png` of an image and `<stem>.attention.nii.gz` of a CT; `features` is one row of `Features`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if item.modality == "xray":
        picture = film_picture(pixels, film_attention(features.scores, trained))
    else:
        attention = volume_attention(features.scores, trained)
        picture = slices_picture(pixels, attention, chosen_slices(features.layers, trained), trained.model.window_hu)
        image = on_own_voxels(attention, item.path)
        write_whole(stem.with_name(f"{stem.name}.attention.nii.gz"), lambda path: nibabel.save(image, path))
    write_whole(stem.with_name(f"{stem.name}.attention.png"), lambda path: save_png(path, picture))


def film_attention(scores: np.ndarray, trained: Pretrained) -> np.ndarray:
    """Scores of an X-ray's tokens (n,) on the record's pixels, float32 (256, 256), sum 1; 0 outside the centre crop."""
    grid, crop = trained.model.vision.image_grid, trained.config["input"]["crop"]
    cells = cv2.resize(scores.reshape(grid).astype(np.float32), (crop, crop), interpolation=cv2.INTER_NEAREST_EXACT)
    spare = geometry.XRAY_SIZE - crop
    full = np.pad(cells, ((spare // 2, spare - spare // 2),) * 2)
    return full / full.sum()


def volume_attention(scores: np.ndarray, trained: Pretrained) -> np.ndarray:
    """Scores of the volume's tokens, which follow the slices' in the sequence, as float32 (z, y, x) cells."""
    grid = trained.model.volume_grid
    return scores[-int(np.prod(grid)) :].reshape(grid)


def chosen_slices(layers: np.ndarray, trained: Pretrained) -> list[int]:
    """Slices of the record that the network took in 2D."""
    model = trained.model
    depth = model.volume_patch[0]
    offsets = [depth // 2] if model.slices_per_layer == 1 else range(depth)
    step = geometry.VOLUME_SHAPE[0] // (model.volume_grid[0] * depth)  # slices of the record in one of the network's
    return [int(layer * depth + offset) * step for layer in layers for offset in offsets]


def on_own_voxels(attention: np.ndarray, path: pathlib.Path) -> nibabel.Nifti1Image:
    """Cells (z, y, x) of the canonical field on the voxels of the CT at `path`, in its own world space.

    A NIfTI's own order of axes is kept; other formats, and tilted scans, give axes along the patient's.
    """
    scan = volumes.read_ct(path)
    voxels, spacing = volumes.to_zyx(scan)
    extent = np.array(voxels.shape) * spacing
    field = np.array([extent[0], max(extent[1:]), max(extent[1:])])  # as geometry.canonical_weights
    index = []
    for axis, cells in enumerate(attention.shape):
        centre = (np.arange(voxels.shape[axis]) + 0.5) * spacing[axis] + (field[axis] - extent[axis]) / 2
        index.append(np.minimum((centre / field[axis] * cells).astype(int), cells - 1))
    spread = attention[np.ix_(*index)].transpose(2, 1, 0)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine  # NIfTI counts toward Right and Anterior
    if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
        own = nibabel.load(path)
        turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.io_orientation(own.affine))
        turned = affine @ orientations.inv_ornt_aff(turn, spread.shape)
        if np.allclose(turned, own.affine, atol=0.01 * affines.voxel_sizes(affine).min()):
            spread, affine = orientations.apply_orientation(spread, turn), own.affine
    return nibabel.Nifti1Image(np.ascontiguousarray(spread), affine)


def on_own_grid(scores: np.ndarray, item: sources.Item, trained: Pretrained) -> np.ndarray:
    """Scores of a picture's tokens (n,) on the grid of its file, float32, sum 1."""
    if item.modality == "xray":
        field = on_own_pixels(film_attention(scores, trained), xrays.read_full_xray(item.path).shape)
    else:
        field = np.asarray(on_own_voxels(volume_attention(scores, trained), item.path).dataobj, np.float32)
    return field / field.sum(dtype=np.float64).astype(np.float32)


def on_own_pixels(attention: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Attention on the record's pixels as float32 on those of the X-ray of `shape` that it was made of."""
    region = np.ascontiguousarray(attention[geometry.xray_region(shape)], np.float32)
    method = cv2.INTER_LINEAR if max(shape) > geometry.XRAY_SIZE else cv2.INTER_AREA
    return cv2.resize(region, shape[::-1], interpolation=method)


def film_picture(film: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The X-ray, and beside it the X-ray under its attention, BGR."""
    return cv2.hconcat([_large(cv2.cvtColor(film, cv2.COLOR_GRAY2BGR)), _large(_overlay(film, attention))])


def slices_picture(volume: np.ndarray, attention: np.ndarray, chosen: list[int], window_hu: Window) -> np.ndarray:
    """The chosen slices in a row, under them the same with the attention of their layer, BGR."""
    low, high = window_hu
    grey = np.clip((volume.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    heat = np.kron(attention, np.ones([a // b for a, b in zip(volume.shape, attention.shape, strict=True)], np.float32))
    chosen = chosen or [len(volume) // 2]
    plain = [_large(cv2.cvtColor(grey[i], cv2.COLOR_GRAY2BGR)) for i in chosen]
    overlaid = [_large(_overlay(grey[i], heat[i], heat.max())) for i in chosen]
    return cv2.vconcat([cv2.hconcat(plain), cv2.hconcat(overlaid)])


def _overlay(grey: np.ndarray, attention: np.ndarray, most: float | None = None) -> np.ndarray:
    heat = (attention / (most or attention.max() or 1) * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 0.6, coloured, 0.6, 0)


def _large(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)


def write_whole(path: pathlib.Path, save: Any) -> None:
    """Lets `save(path)` write a file that appears whole or not at all."""
    partial = path.with_name(f".partial.{path.name}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture; unlike `cv2.imwrite` it raises an OSError where it cannot, and takes any name."""
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
