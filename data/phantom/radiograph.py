"""The phantom's chest X-ray: a beam through the thorax from back to front, onto a detector."""

import dataclasses

import cv2
import numpy as np

from data import record_grid
from data.phantom.patient import Patient, Thorax
from data.phantom.shapes import Grid, Occupancy

SIZE = record_grid.DEFAULT.film_size  # pixels of the longer side
FINEST = 512  # beyond so many the thorax is drawn no finer, and the film interpolates it
WATER_PER_MM = 0.0185  # attenuation of water at the mean energy of a chest X-ray
THRESHOLD_MM = {  # path from which a finding counts as projected onto a pixel
    "nodule": 3.0,
    "consolidation": 12.0,
    "pleural effusion": 10.0,
    "cardiomegaly": 8.0,
    "pneumothorax": 12.0,
}


def xray_grid(patient: Patient, size: int = SIZE) -> Grid:
    """176 x 44 x 176 voxels of 2.2 x 6.6 x 2.2 mm around the lungs, as much finer as a film of `size` pixels is.

    Coarser along the beam, where the X-ray sums anyway.
    """
    finer = max(1.0, min(size, FINEST) / SIZE)
    across = (round(176 * finer), 2.2 / finer)
    axes = (across, (44, 6.6), across)
    z, y, x = ((step * (np.arange(n) - (n - 1) / 2)).astype(np.float32) for n, step in axes)
    return Grid(z + np.float32(0.47 * patient.height), y + np.float32(4.0), x)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How one X-ray was taken."""

    turn: float  # mm of shift to the left per mm of depth: rotation of the patient
    tilt: float  # mm of shift upwards per mm of depth
    field_mm: tuple[float, float]  # (height, width) that the image covers
    offset_mm: tuple[float, float]
    scatter: float  # share of the primary beam, spread broadly
    photons: float
    blur: float  # pixels
    detail: float  # enhancement of fine structure
    contrast: float  # strength of the S-shaped curve
    marker: bool
    size: int = SIZE  # pixels of both sides

    @property
    def finer(self) -> float:
        """How many pixels there are for each of a film of SIZE."""
        return self.size / SIZE


def draw_exposure(patient: Patient, rng: np.random.Generator, size: int = SIZE) -> Exposure:
    """Draws pose, collimation, beam and processing of one X-ray; `size` is that of the film, and nothing else."""
    aspect = float(rng.choice([1.0, 1.0, 0.84, 1.18]))
    need = 2 * patient.half_width + rng.uniform(46, 80)
    width = float(np.clip(need, 300, 378))
    height = float(np.clip(width / aspect, 318, 378))
    return Exposure(
        turn=rng.normal(0, 0.025),
        tilt=rng.normal(0.02, 0.03),
        field_mm=(height, width),
        offset_mm=(rng.uniform(-6, 6), rng.uniform(-7, 7)),
        scatter=rng.uniform(0.25, 0.6),
        photons=rng.uniform(2500, 9000),
        blur=rng.uniform(0.4, 0.8),
        detail=rng.uniform(0.4, 1.1),
        contrast=rng.uniform(0.1, 0.6),
        marker=rng.random() < 0.5,
        size=size,
    )


def project(values: np.ndarray, grid: Grid, exposure: Exposure) -> np.ndarray:
    """Sums `values` (z, y, x) along y, in units times mm, each depth shifted by the pose."""
    total = np.zeros((values.shape[0], values.shape[2]), np.float32)
    for i, depth in enumerate(grid.y):
        up = round(exposure.tilt * depth / grid.step[0])
        left = round(exposure.turn * depth / grid.step[2])
        into_z, from_z = overlap(total.shape[0], up)
        into_x, from_x = overlap(total.shape[1], left)
        total[into_z, into_x] += values[from_z, i, from_x]
    return total * np.float32(grid.step[1])


def overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Where a row moved by `shift` lands, and what part of it stays inside."""
    return (slice(max(shift, 0), length + min(shift, 0)), slice(max(-shift, 0), length - max(shift, 0)))


def attenuation(hu: np.ndarray) -> np.ndarray:
    """Linear attenuation in 1/mm; bone counts more than in CT units, by its calcium."""
    mu = hu * np.float32(WATER_PER_MM / 1000)
    mu += np.float32(WATER_PER_MM)
    bone = hu - np.float32(120)
    np.maximum(bone, 0, out=bone)
    bone *= np.float32(0.8 * WATER_PER_MM / 1000)
    mu += bone
    return np.maximum(mu, 0, out=mu)


def place(path: np.ndarray, grid: Grid, exposure: Exposure) -> np.ndarray:
    """A projection (z, x) as the detector sees it: head up, zero outside the exposed field."""
    # pixel (row, col) -> voxel (z, x); rows run down while z runs up
    zc = (len(grid.z) - 1) / 2 + exposure.offset_mm[0] / grid.step[0]
    xc = (len(grid.x) - 1) / 2 + exposure.offset_mm[1] / grid.step[2]
    k = max(exposure.field_mm) / exposure.size / grid.step[0]
    half = (exposure.size - 1) / 2
    across = k / round(grid.step[2] / grid.step[0])  # from the side voxels are three times as wide as high
    matrix = np.array([[across, 0, xc - across * half], [0, -k, zc + k * half]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    projected = cv2.warpAffine(path, matrix, (exposure.size,) * 2, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    result, field = np.zeros_like(projected), exposed(exposure)
    result[field] = projected[field]
    return result


def exposed(exposure: Exposure) -> tuple[slice, slice]:
    """The part of the image that is not padding."""
    scale = max(exposure.field_mm) / exposure.size
    shape = [min(exposure.size, round(side / scale)) for side in exposure.field_mm]
    return tuple(slice((exposure.size - n) // 2, (exposure.size - n) // 2 + n) for n in shape)


def develop(depth: np.ndarray, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """Optical depth of each pixel -> uint8 image, bright = dense."""
    field, finer = exposed(exposure), exposure.finer
    primary = np.exp(-depth[field])
    # What the body removes from the beam comes back in part as a broad veil.
    height, width = primary.shape
    block = max(1, round(8 * finer))
    coarse = cv2.resize(primary, (width // block, height // block), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 3.5, borderType=cv2.BORDER_REFLECT)
    scatter = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    signal = primary + np.float32(exposure.scatter) * scatter
    signal = cv2.GaussianBlur(signal, (0, 0), exposure.blur)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal += noise * np.sqrt(signal / np.float32(exposure.photons * 12))
    shade = -np.log(np.maximum(signal, 1e-4))
    # Digital X-rays are shown with their fine structure raised over the broad shades.
    broad = cv2.GaussianBlur(shade, (0, 0), 7.0 * finer, borderType=cv2.BORDER_REFLECT)
    shade += np.float32(exposure.detail) * (shade - broad)
    body = shade[depth[field] > 0.6]
    low, high = np.percentile(body[::7], (1.0, 99.0))
    span = high - low
    tone = np.clip((shade - low + 0.10 * span) / (1.13 * span), 0, 1)
    # Film answers least at its darkest and brightest: an S-shaped curve.
    tone -= np.float32(exposure.contrast / (2 * np.pi)) * np.sin(np.float32(2 * np.pi) * tone)
    image = np.zeros(depth.shape, np.uint8)
    image[field] = np.rint(tone * 255).astype(np.uint8)
    if exposure.marker:  # the lead letter at the patient's left
        spot = (field[1].stop - round(26 * finer), field[0].start + round(22 * finer))
        thick = max(1, round(2 * finer))
        cv2.putText(image, "L", spot, cv2.FONT_HERSHEY_SIMPLEX, 0.6 * finer, 245, thick, cv2.LINE_AA)
    return image


def take_xray(thorax: Thorax, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """The X-ray of a thorax: uint8, of the exposure's size."""
    depth = project(attenuation(thorax.hu), thorax.grid, exposure)
    return develop(place(depth, thorax.grid, exposure), exposure, rng)


def shadow(thorax: Thorax, occupancy: Occupancy, exposure: Exposure, threshold_mm: float) -> np.ndarray:
    """Where the beam runs through a structure of the box for `threshold_mm`: bool mask of the film."""
    path = project(occupancy, thorax.inner, exposure)
    whole = np.zeros((len(thorax.grid.z), len(thorax.grid.x)), np.float32)
    whole[thorax.box[0], thorax.box[2]] = path
    return place(whole, thorax.grid, exposure) >= threshold_mm
