"""Soft organs of the phantom: heart, great vessels, lung vessels, airways, upper abdomen."""

import math

import numpy as np

from data.phantom import shapes
from data.phantom.patient import AIR_HU, BLOOD_HU, Thorax
from data.phantom.shapes import Occupancy, Window

STRIDE = 2.0  # mm between the lumps that a lung vessel is made of


def place(thorax: Thorax, window: Window, occupancy: Occupancy, value: float) -> None:
    """Paints an organ that pushes the lung aside. `window` counts in the box of the rib cage."""
    shapes.paint(thorax.hu_box[window], occupancy, value)
    thorax.lung[window] *= 1 - occupancy


def tube(thorax: Thorax, points: list[tuple[float, ...]], radii: list[float], value: float) -> None:
    """A chain of capsules through `points` (z, y, x) in mm."""
    for window, occupancy in shapes.chain(thorax.inner, points, radii):
        place(thorax, window, occupancy, value)


def abdomen(thorax: Thorax, within: Occupancy) -> None:
    """Liver on the right, stomach with its gas and spleen on the left, fat between them."""
    patient, inner = thorax.patient, thorax.inner
    _, y, x = inner.open()
    top = int(np.searchsorted(inner.z, thorax.dome.max() + 12))
    low = (slice(0, top), slice(None), slice(None))
    grid, hu = inner.crop(low), thorax.hu_box[low]
    below = thorax.dome[None] - grid.z[:, None, None]
    organs = shapes.step_up(below - 4, grid.step[0])
    organs *= within[low]
    shapes.paint(thorax.hu_box, within, -60.0)
    inside = shapes.step_up(below, grid.step[0])
    inside *= within[low]
    shapes.paint(hu, inside, 45.0)
    shapes.paint(hu, organs, -60.0)
    edge = 35 - 0.5 * (patient.dome_right - grid.z[:, None, None]) - 0.35 * y - x
    shapes.paint(hu, organs * shapes.step_up(edge, grid.step[2]), 58.0)
    width, depth = patient.half_width, patient.half_depth
    spleen = (patient.dome_left - 52, 0.45 * depth, 0.66 * width)
    stomach = (patient.dome_left - 42, -0.28 * depth, 0.42 * width)
    for centre, radii, value in ((spleen, (46, 34, 30), 52.0), (stomach, (52, 40, 46), 35.0)):
        window, occupancy = shapes.ball(grid, centre, radii)
        shapes.paint(hu[window], occupancy * organs[window], value)
    # Gas rises: to the dome when standing, to the front when lying.
    size = patient.bubble
    if patient.upright:
        gas = (patient.dome_left - 10 - 0.55 * size, -0.15 * depth, 0.42 * width)
        radii = (0.5 * size, 0.8 * size, size)
    else:
        gas = (stomach[0], -0.28 * depth - 24, 0.42 * width)
        radii = (0.9 * size, 0.5 * size, size)
    window, occupancy = shapes.ball(grid, gas, radii)
    shapes.paint(hu[window], occupancy * organs[window], AIR_HU)


def heart(thorax: Thorax) -> None:
    """An oblique ellipsoid whose tip points left, down and forward, and the right atrium."""
    patient, inner = thorax.patient, thorax.inner
    width = 2 * patient.half_width * patient.heart_ratio * 0.97
    angle = math.radians(38)
    long, short = 0.47 * width, 0.36 * width
    deep = min(0.34 * width, 0.56 * patient.half_depth)
    half = math.hypot(long * math.cos(angle), short * math.sin(angle))
    tall = math.hypot(long * math.sin(angle), short * math.cos(angle))
    left, right = 0.665 * width, 0.335 * width
    bottom = patient.dome_left - 7
    c, s, f = math.cos(angle), math.sin(angle), 0.22  # f tips the apex forward
    axis = np.array([-s, -f, c]) / math.hypot(1, f)
    up = np.cross(axis, [0, 1, 0])
    up /= np.linalg.norm(up)
    axes = np.stack([axis, up, np.cross(axis, up)])
    centre = np.array([bottom + tall, -0.30 * patient.half_depth, left - half])
    atrium = (bottom + 0.95 * tall, -0.20 * patient.half_depth, 0.42 * width - right)
    thorax.heart = np.zeros_like(thorax.lung)
    bodies = (
        shapes.ellipsoid(inner, centre, axes, np.array([long, short, deep])),
        shapes.ball(inner, atrium, (0.40 * width, 0.8 * deep, 0.42 * width)),
    )
    for window, occupancy in bodies:
        view = thorax.heart[window]
        np.maximum(view, occupancy, out=view)
    window = inner.window((bottom - 30, -inner.y[-1], -width), (bottom + 2.4 * tall, inner.y[-1], width))
    wall = shapes.step_up((0.93 - thorax.cage[window]) * np.float32(40), inner.step[2])
    thorax.heart[window] *= wall
    place(thorax, window, thorax.heart[window], BLOOD_HU)


def great_vessels(thorax: Thorax) -> None:
    """Aorta with its arch and descent, pulmonary trunk, superior vena cava, hilar arteries."""
    h, depth, base = thorax.patient.height, thorax.patient.half_depth, thorax.patient.dome_left
    back = 0.52 * depth
    root = base + 0.22 * h
    rising = [(root, -0.25 * depth, -6), (0.62 * h, -0.22 * depth, -17), (0.71 * h, -0.05 * depth, -4)]
    falling = [(0.715 * h, 0.18 * depth, 20), (0.65 * h, 0.42 * depth, 26), (0.45 * h, back, 25), (-80, back, 10)]
    tube(thorax, rising + falling, [16, 16, 15, 14, 13, 12, 11], BLOOD_HU)
    trunk = [(root, -0.3 * depth, 14), (0.565 * h, -0.12 * depth, 27), (0.585 * h, 0.08 * depth, 34)]
    tube(thorax, trunk, [17, 15, 12], BLOOD_HU)
    tube(thorax, [(root, -0.1 * depth, -25), (0.86 * h, 0.05 * depth, -21)], [12, 9], BLOOD_HU)
    for x, z in ((-1, 0.535 * h), (1, 0.575 * h)):
        lower = (z - 34, 0.14 * depth, x * 48)
        tube(thorax, [(z, 0.04 * depth, x * 22), (z, 0.06 * depth, x * 40), lower], [11, 10, 6], 45)


def airways(thorax: Thorax) -> None:
    """Trachea, carina and the main bronchi; the first lobar branches."""
    h, depth = thorax.patient.height, thorax.patient.half_depth
    carina = (0.605 * h, 0.14 * depth, 3.0)
    air = (
        ([(h + 60, -0.1 * depth, 0.0), (0.8 * h, 0.08 * depth, -1.0), carina], [9, 9, 9]),
        ([carina, (0.53 * h, 0.16 * depth, -34.0), (0.44 * h, 0.25 * depth, -46.0)], [7.5, 6.5, 4]),
        ([carina, (0.51 * h, 0.18 * depth, 42.0), (0.42 * h, 0.3 * depth, 50.0)], [7, 6, 4]),
    )
    for points, radii in air:
        for window, lumen in shapes.chain(thorax.grid, points, radii):
            shapes.paint(thorax.hu[window], lumen, AIR_HU)


def vessel_tree(thorax: Thorax, rng: np.random.Generator) -> None:
    """Arteries that branch from both hila, taper and fill the lungs; drawn as scattered lumps."""
    h, depth = thorax.patient.height, thorax.patient.half_depth
    starts, ways, sizes = [], [], []
    for x, z in ((-1, 0.52 * h), (1, 0.55 * h)):
        for _ in range(13):
            starts.append((z + rng.uniform(-18, 14), 0.1 * depth + rng.uniform(-8, 8), x * 40))
            ways.append((rng.uniform(-1.3, 1.0), rng.uniform(-0.9, 0.9), x * rng.uniform(0.3, 0.9)))
            sizes.append(rng.uniform(3.0, 4.8))
    start, way, size = np.array(starts), np.array(ways), np.array(sizes)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    points, areas = [], []
    for length in (34.0, 28.0, 24.0, 20.0, 16.0):
        steps = np.arange(0, length, STRIDE)
        reach = rng.uniform(0.75, 1.25, len(start)) * 1.0
        end = start + way * (length * reach)[:, None]
        line = start[:, None] + way[:, None] * (steps[None] * reach[:, None])[..., None]
        radius = size[:, None] * (1 - 0.25 * steps / length)
        points.append(line.reshape(-1, 3))
        areas.append((math.pi * radius**2 * STRIDE * reach[:, None]).ravel())
        # Each branch forks into two of about the same joint cross-section.
        start, size = (np.repeat(end, 2, 0), np.repeat(size, 2) * rng.uniform(0.62, 0.82, 2 * len(end)))
        way = np.repeat(way, 2, 0) + rng.normal(0, 0.42, (2 * len(end), 3))
        way /= np.linalg.norm(way, axis=1, keepdims=True)
    deposit(thorax, np.concatenate(points), np.concatenate(areas), rng)


def deposit(thorax: Thorax, points: np.ndarray, volume: np.ndarray, rng: np.random.Generator) -> None:
    """Adds blood lumps inside the lung; thick ones are spread over their own cross-section."""
    radius = np.sqrt(volume / (STRIDE * math.pi))
    copies = np.clip((radius / 1.2) ** 2, 1, 9).astype(int)
    spread = np.repeat(np.where(copies > 1, 0.55 * radius, 0), copies)
    points = np.repeat(points, copies, 0)
    points += rng.standard_normal(points.shape) * spread[:, None]
    volume = np.repeat(volume / copies, copies)
    index, share = shapes.splat(thorax.lung.shape, thorax.inner, points, volume)
    filled = np.zeros(thorax.lung.size, np.float32)
    np.add.at(filled, index, share)
    # Only the voxels touched are rewritten; those named twice get the same value twice.
    share = np.minimum(filled[index], 1) * thorax.lung.reshape(-1)[index]
    flat, hu = thorax.flat(index), thorax.hu.reshape(-1)
    hu[flat] += share * (BLOOD_HU - hu[flat])
