"""The box of a scan that holds the body, or the lungs alone, found on a coarse copy: config.crop_to."""

import numpy as np
from scipy import ndimage

from data.readers.files import BadInput
from data.readers.placement import Box

COARSE_MM = 4.0  # of the copy, by leaving voxels out
MARGIN_MM = 10.0  # around what is looked for, where the scan reaches so far
BODY_HU = -400  # above: tissue; below: air and lung
LUNG_ML, LUNG_SHARE = 100.0, 0.1  # the least that counts as lung, and the least of the larger lung that is the other
TABLE = 2  # cells: what is thinner, as the shell of a table, is no body


def of(scan: np.ndarray, spacing: tuple[float, float, float], what: str) -> Box:
    """The box (z, y, x) around the "body" or the "lungs" of a scan in HU, and MARGIN_MM beside; "": the whole scan.

    Lungs are the air inside the body, in each slice apart from the air around it. Raises BadInput where there are none.
    """
    if not what:
        return tuple(slice(0, n) for n in scan.shape)
    steps = tuple(max(1, round(COARSE_MM / mm)) for mm in spacing)
    coarse = scan[tuple(slice(None, None, step) for step in steps)]
    cell = [step * mm for step, mm in zip(steps, spacing, strict=True)]
    body = _body(coarse)
    cells = body if what == "body" else _lungs(coarse, body, float(np.prod(cell)) / 1000)
    if not cells.any():
        raise BadInput("nothing_to_crop", f"the scan shows no {what}, to which config.crop_to crops")
    box = []
    for axis, (n, step, mm) in enumerate(zip(scan.shape, steps, spacing, strict=True)):
        used = np.flatnonzero(cells.any(tuple(other for other in range(3) if other != axis)))
        beside = round(MARGIN_MM / mm)
        box.append(slice(max(0, used[0] * step - beside), min(n, (used[-1] + 1) * step + beside)))
    return tuple(slice(int(part.start), int(part.stop)) for part in box)


def _body(hu: np.ndarray) -> np.ndarray:
    """The largest connected piece of tissue, with what each slice of it encloses; without a table."""
    tissue = ndimage.binary_opening(hu > BODY_HU, np.ones((1, TABLE + 1, TABLE + 1), bool))
    labels, count = ndimage.label(tissue)
    if not count:
        return tissue
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def _lungs(hu: np.ndarray, body: np.ndarray, millilitres: float) -> np.ndarray:
    """The largest pieces of air inside the body: two lungs, or one where they are joined; `millilitres` of a cell."""
    labels, count = ndimage.label(body & (hu < BODY_HU))
    sizes = np.bincount(labels.ravel(), minlength=1)[1:] * millilitres
    if not count or sizes.max() < LUNG_ML:
        return np.zeros(hu.shape, bool)
    least = max(LUNG_ML, LUNG_SHARE * sizes.max())
    largest = [k for k in np.argsort(-sizes)[:2] if sizes[k] >= least]
    return np.isin(labels, [k + 1 for k in largest])
