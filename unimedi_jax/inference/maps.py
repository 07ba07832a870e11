"""Where the network attends: attention over an X-ray, chosen slices of a CT, attention on a CT's own voxels."""

import pathlib
from typing import Any, NamedTuple

import cv2
import nibabel
import numpy as np
from nibabel import affines, orientations

from data.manifest.reading import Reading
from data.readers import ct_records, geometry, xrays
from unimedi_jax.inference import sources
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import cuts

Window = tuple[float, float]
SCALE = 3  # pixels of the picture for one of the record


def write(stem: pathlib.Path, item: sources.Item, pixels: np.ndarray, features: Any, trained: Pretrained) -> None:
    """`<stem>.attention.png` of an image and `<stem>.attention.nii.gz` of a CT; `features` is one row of `Features`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if item.modality == "xray":
        picture = film_picture(pixels, film_attention(features.scores, trained))
    else:
        attention = volume_attention(features.scores, pixels.shape, trained)
        chosen = chosen_slices(features.layers, pixels.shape, trained)
        picture = slices_picture(pixels, attention, chosen, trained.model.window_hu)
        image = on_own_voxels(attention, item.path, trained.reading)
        write_whole(stem.with_name(f"{stem.name}.attention.nii.gz"), lambda path: nibabel.save(image, path))
    write_whole(stem.with_name(f"{stem.name}.attention.png"), lambda path: save_png(path, picture))


def film_attention(scores: np.ndarray, trained: Pretrained) -> np.ndarray:
    """Scores of an X-ray's tokens (n,) on the record's pixels, float32 (y, x), sum 1; 0 outside the centre crop."""
    grid, side = trained.model.vision.image_grid, trained.grid.film_size
    crop = trained.sampler("xray").cropped(side)
    cells = cv2.resize(scores.reshape(grid).astype(np.float32), (crop, crop), interpolation=cv2.INTER_NEAREST_EXACT)
    spare = side - crop
    full = np.pad(cells, ((spare // 2, spare - spare // 2),) * 2)
    return full / full.sum()


def volume_attention(scores: np.ndarray, shape: tuple[int, ...], trained: Pretrained) -> np.ndarray:
    """Scores of the volume's tokens, which follow the slices' in the sequence, on the voxels of a record of `shape`.

    Float32 (z, y, x); 0 outside the window that the network saw.
    """
    grid = trained.model.volume_grid
    cells = scores[-int(np.prod(grid)) :].reshape(grid).astype(np.float32)
    index, inside = zip(*(axis.places(n) for axis, n in zip(seen_axes(shape, trained), grid, strict=True)), strict=True)
    return cells[np.ix_(*index)] * np.einsum("i,j,k->ijk", *(places.astype(np.float32) for places in inside))


class SeenAxis(NamedTuple):
    """Which voxels of an axis a network sees: `length` of them from `start` on, which may lie outside the record."""

    start: float
    length: float
    voxels: int  # of the record

    def places(self, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """For each voxel the cell that holds its middle, and whether it is seen; `cells` share the length."""
        middle = (np.arange(self.voxels) + 0.5 - self.start) / self.length
        return np.clip((middle * cells).astype(int), 0, cells - 1), (middle >= 0) & (middle < 1)


def seen_axes(shape: tuple[int, ...], trained: Pretrained) -> list[SeenAxis]:
    """What the network sees of a record of `shape`: its central window, or all of it, with air around."""
    sampler = trained.sampler("ct")
    size = sampler.volume_size
    if sampler.window != cuts.WHOLE:
        box = cuts.boxes(shape, size, sampler.windows)[0]
        starts = (part.start - (wide - (part.stop - part.start)) // 2 for part, wide in zip(box, size, strict=True))
        return [SeenAxis(*axis) for axis in zip(starts, size, shape, strict=True)]
    if cuts.shrinks(shape, size):
        return [SeenAxis(0, n, n) for n in shape]
    field = geometry.whole_field(shape, (1.0, 1.0, 1.0), size)
    return [SeenAxis((n - length) / 2, length, n) for n, length in zip(shape, field, strict=True)]


def chosen_slices(layers: np.ndarray, shape: tuple[int, ...], trained: Pretrained) -> list[int]:
    """Slices of a record of `shape` that the network took in 2D."""
    model = trained.model
    depth = model.volume_patch[0]
    offsets = [depth // 2] if model.slices_per_layer == 1 else range(depth)
    axis, count = seen_axes(shape, trained)[0], model.volume_grid[0] * depth
    own = [
        int(axis.start + int(layer * depth + offset) * axis.length // count) for layer in layers for offset in offsets
    ]
    return [min(max(index, 0), shape[0] - 1) for index in own]


def on_own_voxels(attention: np.ndarray, path: pathlib.Path, reading: Reading) -> nibabel.Nifti1Image:
    """A record's voxels (z, y, x) on those of the CT at `path`, the nearest, in its own world space.

    A NIfTI's own order of axes is kept; other formats, and tilted scans, give axes along the patient's.
    """
    scan, placed = ct_records.find(path, reading.grid, reading.scans)
    spread = np.zeros(scan.shape[::-1], np.float32)
    centres = [np.arange(part.start, part.stop) + 0.5 for part in placed.box]
    longest = max(map(len, centres))
    padded = np.stack([np.pad(axis, (0, longest - len(axis)), mode="edge") for axis in centres], axis=1)
    index = np.clip(placed.points(padded).astype(int), 0, np.array(placed.shape) - 1).T
    parts = [axis[: len(own)] for axis, own in zip(index, centres, strict=True)]
    spread[placed.box] = attention[np.ix_(*parts)]
    spread = spread.transpose(2, 1, 0)
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
        shape = ct_records.find(item.path, trained.grid, trained.reading.scans)[1].shape
        attention = volume_attention(scores, shape, trained)
        field = np.asarray(on_own_voxels(attention, item.path, trained.reading).dataobj, np.float32)
    return field / field.sum(dtype=np.float64).astype(np.float32)


def on_own_pixels(attention: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Attention on the record's pixels as float32 on those of the X-ray of `shape` that it was made of."""
    size = len(attention)
    region = np.ascontiguousarray(attention[geometry.xray_region(shape, size)], np.float32)
    method = cv2.INTER_LINEAR if max(shape) > size else cv2.INTER_AREA
    return cv2.resize(region, shape[::-1], interpolation=method)


def film_picture(film: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The X-ray, and beside it the X-ray under its attention, BGR."""
    return cv2.hconcat([_large(cv2.cvtColor(film, cv2.COLOR_GRAY2BGR)), _large(_overlay(film, attention))])


def slices_picture(volume: np.ndarray, attention: np.ndarray, chosen: list[int], window_hu: Window) -> np.ndarray:
    """The chosen slices in a row, under them the same with the attention of their layer, BGR."""
    low, high = window_hu
    grey = np.clip((volume.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    chosen = chosen or [len(volume) // 2]
    plain = [_large(cv2.cvtColor(grey[i], cv2.COLOR_GRAY2BGR)) for i in chosen]
    overlaid = [_large(_overlay(grey[i], attention[i], attention.max())) for i in chosen]
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
