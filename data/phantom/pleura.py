"""What collects between the lung and the chest wall of the phantom: fluid and air."""

import numpy as np

from data.phantom import shapes
from data.phantom.patient import AIR_HU, CAGE_POWER, Thorax, cage_profile, hemithorax
from data.phantom.shapes import Occupancy, smoothstep

FLUID_HU = 8.0


def effusion(thorax: Thorax, side: str, rng: np.random.Generator) -> Occupancy:
    """Free fluid: a meniscus at the base of a standing patient, a crescent behind a lying one."""
    patient, inner = thorax.patient, thorax.inner
    lung = hemithorax(thorax, side)
    amount = rng.beta(1.0, 1.9)
    # The meniscus climbs the wall within about two centimetres.
    near_wall = thorax.cage - 1
    near_wall *= np.float32(patient.half_width / (CAGE_POWER * 17.0))
    wall = np.exp(np.minimum(near_wall, 0, out=near_wall), out=near_wall)
    z, y, _ = inner.open()
    if patient.upright:
        dome = patient.dome_right if side == "right" else patient.dome_left
        level = 0.35 * dome + amount * (0.50 * patient.height - 0.35 * dome)
        depth = level + (22 + 26 * amount) * wall - z
        step = inner.step[0]
    else:
        _, deep, centre = cage_profile(patient, inner.z)
        thick = (24 + 66 * amount) * (1 - 0.7 * np.clip(inner.z / patient.height, 0, 1))
        surface = (centre + deep - thick).astype(np.float32)[:, None, None]
        depth = y + 20 * wall - 8 - surface
        step = inner.step[1]
    fluid = lung * shapes.step_up(depth.copy(), step)
    shapes.paint(thorax.hu_box, fluid, FLUID_HU + rng.uniform(-4, 6))
    # The lung next to the fluid loses some air.
    near = np.clip(1 + depth / 14, 0, 1) * (lung - fluid)
    shapes.paint(thorax.hu_box, 0.25 * near, 20.0)
    return fluid


def pneumothorax(thorax: Thorax, side: str, rng: np.random.Generator) -> Occupancy:
    """Air outside a shrunken lung: above and beside it standing, in front of it lying."""
    patient, inner = thorax.patient, thorax.inner
    lung = hemithorax(thorax, side)
    rim = 8 + 32 * rng.beta(1.0, 1.9)
    rise = np.clip(inner.z / patient.height, 0, 1)
    if patient.upright:
        shift = 1.5 * rim * smoothstep(rise, 0.25, 0.9)
        width, depth, centre = cage_profile(patient, inner.z + shift)
        width = width - rim * (0.2 + 0.8 * smoothstep(rise, 0.0, 0.75))
        depth = depth - 0.15 * rim * smoothstep(rise, 0.35, 0.9)
    else:
        rim *= 1.25
        width, depth, centre = cage_profile(patient, inner.z)
        width = width - 0.25 * rim
        depth = np.maximum(depth - 0.5 * rim, 4)
        centre = centre + 0.5 * rim
    shrunk = shapes.superellipse(inner, np.maximum(width, 4), depth, centre, CAGE_POWER)
    radius = np.maximum(width, 10)
    collapsed = shapes.inside(shrunk, inner, radius, np.maximum(depth, 10), CAGE_POWER)
    if patient.upright:
        collapsed[inner.z + shift > patient.height] = 0
    air = lung * (1 - collapsed)
    hu = thorax.hu_box
    shapes.paint(hu, (0.10 + 0.002 * rim) * lung * collapsed, 20.0)
    shapes.paint(hu, air, AIR_HU)
    edge = np.abs(shrunk - 1) * (radius / CAGE_POWER)[:, None, None].astype(np.float32)
    pleura = shapes.step_up(1.2 - edge, inner.step[2]) * lung
    shapes.paint(hu, 0.5 * pleura, 0.0)
    return air
