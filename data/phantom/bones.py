"""Bones of the phantom: ribs, sternum, spine, collar bones, shoulder blades, upper arms."""

import numpy as np

from data.phantom import shapes
from data.phantom.patient import CAGE_POWER, Thorax, cage_profile
from data.phantom.shapes import Occupancy, Window, smoothstep

RIB_THICK, RIB_HIGH = 7.5, 11.5  # mm, across and along the wall


def ribs(thorax: Thorax) -> None:
    """Twelve oblique arcs a side on the outer face of the cage, drawn all at once.

    Every voxel of that shell knows its angle around the chest; a rib is where its height, plus
    the fall that a rib has reached at this angle, comes near a multiple of the rib spacing.
    """
    patient, inner = thorax.patient, thorax.inner
    width, depth, centre = cage_profile(patient, inner.z)
    limit = 1 + CAGE_POWER * (RIB_THICK + 4) / np.minimum(width, depth)
    shell = (thorax.cage > 0.98) & (thorax.cage < limit[:, None, None])
    index = np.flatnonzero(shell).astype(np.int32)
    rows, xi = np.divmod(index, np.int32(shell.shape[2]))
    zi, yi = np.divmod(rows, np.int32(shell.shape[1]))
    across = np.abs(inner.x)[xi] / width[zi]
    along = (inner.y[yi] - centre[zi]) / depth[zi]
    angle = np.arctan2(across, along)  # 0 at the back, pi in front
    sine, cosine = np.sin(angle), np.cos(angle)
    radius = np.hypot(width[zi] * sine, depth[zi] * cosine)
    out = (thorax.cage.ravel()[index] ** np.float32(1 / CAGE_POWER) - 1) * radius
    drop = rib_fall(angle, patient.rib_drop)
    origin = inner.z[zi] + drop  # where this rib leaves the spine
    phase = (origin + np.float32(patient.rib_phase)) / np.float32(patient.rib_spacing)
    gap = np.abs(phase - np.round(phase)) * np.float32(patient.rib_spacing)
    ramp = inner.step[2] * np.abs(sine) + inner.step[1] * np.abs(cosine)
    solid = shapes.step_up(RIB_THICK / 2 - np.abs(out - RIB_THICK / 2), ramp)
    solid *= shapes.step_up(RIB_HIGH / 2 - gap, inner.step[2])
    end = 1.2 + 1.2 * smoothstep(origin, -45, 20)  # the lowest ribs float
    solid *= shapes.step_up((end - angle) * radius, inner.step[2])
    solid *= (origin < patient.height + 14) & (origin > -60) & (angle > 0.16)
    edge = np.clip(gap / np.float32(RIB_HIGH / 2), 0, 1) ** 3
    value = (480 + 620 * edge) * np.float32(patient.bone)
    flat, hu = thorax.flat(index), thorax.hu.reshape(-1)
    hu[flat] += solid * (value - hu[flat])
    thorax.lung.reshape(-1)[index] *= 1 - solid


def rib_fall(angle: np.ndarray, total: float) -> np.ndarray:
    """How far (mm) a rib has fallen at an angle around the chest: steeper towards the front."""
    turn = angle / np.float32(np.pi)
    return (np.float32(total) * (0.45 * turn + 0.85 * turn**2 - 0.3 * turn**4)).astype(np.float32)


def spine(thorax: Thorax) -> None:
    """Vertebral bodies with discs between them, the canal, and the spinous processes."""
    patient, grid = thorax.patient, thorax.grid
    h, depth = patient.height, patient.half_depth
    window = grid.window((-1e3, 0.25 * depth, -34), (1e3, 1.6 * depth, 34))
    inner = grid.crop(window)
    z, y, x = inner.open()
    t = z / h
    back = 0.80 * depth + patient.kyphosis * (1 - ((t - 0.45) / 0.5) ** 2)
    back = back - 0.16 * depth * smoothstep(t, 0.75, 1.15)
    side = patient.scoliosis * np.sin(3 * t)
    size = 1.12 - 0.28 * np.clip(t, -0.3, 1.2)
    u = (x - side) / (17 * size)
    v = (y - back) / (14 * size)
    field = np.sqrt(u * u + v * v)
    phase = (z + patient.rib_phase) / patient.rib_spacing + 0.35
    level = np.abs(phase - np.round(phase))  # 0 mid-body, 0.5 mid-disc
    body = shapes.step_up((1 - field) * 15, inner.step[2])
    bony = shapes.step_up((0.41 - level) * patient.rib_spacing, inner.step[0])
    rim = np.clip(field, 0, 1) ** 6 + np.clip(level / 0.41, 0, 1) ** 6
    value = (110 + 170 * np.minimum(rim, 1)) * patient.bone * bony + 75 * (1 - bony)
    hu = thorax.hu[window]
    soft = shapes.step_up((1.25 - field) * 15, inner.step[2])
    shapes.paint(hu, soft * (hu < 30), 42.0)
    # Behind the body: arch and spinous process, with the canal left soft.
    behind = y - back
    arch = np.minimum(13 * size - np.abs(x - side), 11 - np.abs(behind - 24 * size))
    process = np.minimum(4.5 - np.abs(x - side), 13 - np.abs(behind - 44 * size))
    rear = shapes.step_up(np.maximum(arch, process) + 0 * z, inner.step[2])
    rear = rear * shapes.step_up((0.33 - np.abs(level - 0.12)) * patient.rib_spacing, inner.step[0])
    shapes.paint(hu, rear.astype(np.float32), 240.0 * patient.bone)
    canal = shapes.step_up(8 - np.hypot(x - side, behind - 21 * size), inner.step[2])
    shapes.paint(hu, canal.astype(np.float32), 25.0)
    shapes.paint(hu, body.astype(np.float32), value.astype(np.float32))
    carve_lung(thorax, window, np.maximum(soft, rear))


def carve_lung(thorax: Thorax, window: Window, solid: Occupancy) -> None:
    """Takes the lung out of a body drawn in a window of the whole grid."""
    shared, own = [], []
    for outer, part in zip(thorax.box, window, strict=True):
        start, stop = max(outer.start, part.start), min(outer.stop, part.stop)
        shared.append(slice(start - outer.start, stop - outer.start))
        own.append(slice(start - part.start, stop - part.start))
    thorax.lung[tuple(shared)] *= 1 - solid[tuple(own)].astype(np.float32)


def bar(thorax: Thorax, points: list[tuple[float, ...]], radii: list[float], value: float) -> None:
    """A chain of bony capsules, over the whole grid."""
    for window, solid in shapes.chain(thorax.grid, points, radii):
        shapes.paint(thorax.hu[window], solid, value)


def girdle(thorax: Thorax) -> None:
    """Sternum, collar bones, shoulder blades and, standing, the heads of the upper arms."""
    patient, grid = thorax.patient, thorax.grid
    h, width, depth, bone = patient.height, patient.half_width, patient.half_depth, patient.bone
    _, deep, centre = cage_profile(patient, np.array([0.25 * h, 0.78 * h]))
    front = centre - deep - 4
    bar(thorax, [(0.25 * h, front[0], 0), (0.78 * h, front[1], 0)], [8, 11], 190 * bone)
    for side in (-1, 1):
        raised = 0.0 if patient.upright else 22.0  # the arms lie beside the head in a scanner
        collar = [
            (0.80 * h, front[1] + 4, side * 16),
            (0.855 * h, front[1] + 10, side * 62),
            (0.895 * h + raised / 2, front[1] + 40, side * 112),
            (0.89 * h + raised, 0.25 * depth, side * (width + 22)),
        ]
        bar(thorax, collar, [8.5, 6, 6, 7], 650 * bone)
        tip = (0.40 * h, 0.80 * depth, side * (width - 4))
        spine_end = (0.78 * h, 0.98 * depth, side * 0.62 * width)
        joint = (0.85 * h + raised, 0.35 * depth, side * (width + 24))
        blade(thorax, np.array([tip, spine_end, joint]), 260 * bone)
        bar(thorax, [tip, joint], [3.5, 5], 380 * bone)
        if patient.upright:
            head = shapes.ball(grid, (0.84 * h, 0.2 * depth, side * (width + 46)), (24, 22, 22))
            shapes.paint(thorax.hu[head[0]], head[1], 330 * bone)
            shaft = [(0.82 * h, 0.2 * depth, side * (width + 50)), (0.2 * h, 0, side * (width + 82))]
            bar(thorax, shaft, [13, 11], 420 * bone)


def blade(thorax: Thorax, corners: np.ndarray, value: float) -> None:
    """A thin bony triangle, laid down as a dense cloud of lumps."""
    n = 46
    a, b = (g.ravel() for g in np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n)))
    keep = a + b <= 1
    a, b = a[keep, None], b[keep, None]
    points = corners[0] + a * (corners[1] - corners[0]) + b * (corners[2] - corners[0])
    area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0])) / 2
    volume = np.full(len(points), area * 3.0 / len(points))
    index, share = shapes.splat(thorax.hu.shape, thorax.grid, points, volume)
    np.add.at(thorax.hu.reshape(-1), index, share * np.float32(value - 42))
