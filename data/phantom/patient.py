"""The measures of one phantom patient, and the frame of its thorax: rib cage, diaphragm, midline."""

import dataclasses

import numpy as np

from data.phantom.shapes import Grid, Occupancy, Window, smoothstep

LUNG_HU, FAT_HU, MUSCLE_HU, BLOOD_HU, AIR_HU = -850.0, -100.0, 42.0, 45.0, -1000.0
CAGE_POWER = 2.2  # superellipse exponent of the rib cage: a little fuller than an ellipse


@dataclasses.dataclass(frozen=True)
class Patient:
    """The measures of one thorax; lengths in mm. Drawn by `draw_patient`."""

    upright: bool
    height: float  # lung apex above the costophrenic level
    half_width: float  # of the inner rib cage
    half_depth: float
    fat: float  # subcutaneous
    wall: float  # muscle outside the ribs
    dome_right: float  # diaphragm above the costophrenic level
    dome_left: float
    heart_ratio: float  # cardiothoracic ratio
    rib_spacing: float
    rib_phase: float
    rib_drop: float
    breast: float  # 0 = none
    scoliosis: float
    kyphosis: float
    bone: float  # density factor
    lung_hu: float
    bubble: float  # radius of the gastric gas


def draw_patient(rng: np.random.Generator, *, upright: bool, enlarged: bool) -> Patient:
    """Draws a patient; `enlarged` makes the heart wider than 0.55 of the thorax."""
    size = rng.uniform(0.92, 1.08)
    woman = rng.random() < 0.5
    inspiration = rng.uniform(0.93, 1.06) * (1.0 if upright else 0.93)
    height = 262 * size * inspiration
    dome_right = rng.uniform(50, 62) * size + (0 if upright else 6)
    spacing = height / rng.uniform(10.8, 11.6)
    return Patient(
        upright=upright,
        height=height,
        half_width=rng.uniform(134, 148) * size * (0.95 if woman else 1.0),
        half_depth=rng.uniform(84, 98) * size,
        fat=rng.uniform(6, 20) + 3 * woman,
        wall=rng.uniform(8, 16),
        dome_right=dome_right,
        dome_left=dome_right - rng.uniform(6, 16),
        heart_ratio=rng.uniform(0.57, 0.66) if enlarged else rng.uniform(0.42, 0.48),
        rib_spacing=spacing,
        rib_phase=rng.uniform(0, spacing),
        rib_drop=rng.uniform(92, 118),
        breast=rng.uniform(45, 62) if woman else 0.0,
        scoliosis=rng.normal(0, 3),
        kyphosis=rng.uniform(6, 14),
        bone=rng.uniform(0.8, 1.15),
        lung_hu=LUNG_HU + rng.uniform(-25, 25),
        bubble=rng.uniform(16, 34),
    )


@dataclasses.dataclass
class Thorax:
    """A drawn patient. `lung`, `heart` and `cage` cover only the box of the rib cage."""

    patient: Patient
    grid: Grid
    hu: np.ndarray  # (z, y, x) float32
    box: Window
    inner: Grid  # the grid of the box
    cage: np.ndarray  # superellipse value in the box: 1 on the inner face of the ribs
    dome: np.ndarray  # (y, x) height of the diaphragm in the box
    lung: Occupancy
    heart: Occupancy

    def flat(self, index: np.ndarray) -> np.ndarray:
        """Flat positions in the box -> flat positions in the whole grid."""
        _, ny, nx = self.cage.shape
        rows, x = np.divmod(index.astype(np.int32), np.int32(nx))
        z, y = np.divmod(rows, np.int32(ny))
        corner = [axis.start for axis in self.box]
        rows = (z + corner[0]) * self.hu.shape[1] + (y + corner[1])
        return rows * self.hu.shape[2] + (x + corner[2])

    def sideways(self) -> "Thorax":
        """The same thorax with y and x exchanged: what a beam from the patient's right goes through."""

        def turned(values: np.ndarray) -> np.ndarray:
            return values.swapaxes(1, 2)

        grids = (Grid(grid.z, grid.x, grid.y) for grid in (self.grid, self.inner))
        box = (self.box[0], self.box[2], self.box[1])
        bodies = map(turned, (self.cage, self.lung, self.heart))
        grid, inner = grids
        cage, lung, heart = bodies
        return Thorax(self.patient, grid, turned(self.hu), box, inner, cage, self.dome.T, lung, heart)

    @property
    def hu_box(self) -> np.ndarray:
        """The part of `hu` inside the box, as a view."""
        return self.hu[self.box]


def cage_profile(patient: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half width, half depth and centre (y) of the inner rib cage at heights `z` in mm."""
    t = np.clip(z / patient.height, -1, 0.9995)
    rise = np.clip(t, 0, 1)
    apex = 0.34 * patient.half_width
    width = apex + (patient.half_width - apex) * (1 - rise**2.7) ** 0.52
    width = width * (1 - 0.05 * (1 - rise) ** 6) - 6 * np.clip(-t, 0, 1)
    depth = patient.half_depth * (0.22 + 0.78 * (1 - rise**2.6) ** 0.6)
    # The first ribs slope down to the front, so the apex of the lung lies at the back.
    centre = 0.42 * patient.half_depth * rise**2.5
    return tuple(a.astype(np.float32) for a in (width, depth, centre))


def diaphragm(patient: Patient, grid: Grid) -> np.ndarray:
    """Height of the diaphragm (y, x) in mm: two domes that fall to the walls, most at the back."""
    width, depth, _ = cage_profile(patient, np.zeros(1))
    y, x = grid.y[:, None], grid.x[None, :]
    dome = np.where(x < 0, patient.dome_right, patient.dome_left)
    centre = 0.45 * width[0]
    lateral = np.clip((np.abs(x) - centre) / (width[0] - centre), -1, 1.2)
    sideways = np.where(lateral > 0, np.abs(lateral) ** 2.4, 0.16 * lateral**2)
    front = (y + 0.15 * depth[0]) / depth[0]
    lengthwise = np.where(front > 0, 0.72 * np.abs(front) ** 2.2, 0.30 * front**2)
    return (dome - (dome + 6) * (sideways + lengthwise)).astype(np.float32)


def mediastinum(patient: Patient, grid: Grid) -> np.ndarray:
    """Half width (z, y) of what lies between the lungs: narrow in front, wide at the hila."""
    t = np.clip(grid.z / patient.height, 0, 1)[:, None]
    y = grid.y[None, :] / patient.half_depth
    middle = 4 + 18 * np.exp(-(((y - 0.05) / 0.3) ** 2)) + 14 * smoothstep(y, 0.4, 0.75)
    # Towards the apex the inner and the outer border of each lung meet in a round tip.
    tip = 0.34 * patient.half_width
    return (middle + (tip - middle) * (1 - (1 - t**6) ** 0.5)).astype(np.float32)


def hemithorax(thorax: Thorax, side: str) -> Occupancy:
    """The lung of one side as the box holds it."""
    x = thorax.inner.x[None, None, :]
    return thorax.lung * ((x < 0) if side == "right" else (x > 0))
