"""A parametric human thorax in Hounsfield units, drawn on any regular grid, with its organs known."""

import numpy as np

from data.phantom import bones, organs, shapes
from data.phantom.patient import (
    AIR_HU,
    CAGE_POWER,
    FAT_HU,
    MUSCLE_HU,
    Patient,
    Thorax,
    cage_profile,
    diaphragm,
    mediastinum,
)
from data.phantom.shapes import Grid, smoothstep


def build(patient: Patient, grid: Grid, rng: np.random.Generator) -> Thorax:
    """Draws the patient without findings. `rng` shapes the vessels and nothing else."""
    hu = trunk(patient, grid)
    reach = patient.half_width + 14, patient.half_depth + 22
    box = grid.window((-90, -reach[1], -reach[0]), (patient.height + 12, reach[1] + 12, reach[0]))
    inner = grid.crop(box)
    width, depth, centre = cage_profile(patient, inner.z)
    cage = shapes.superellipse(inner, width, depth, centre, CAGE_POWER)
    dome = diaphragm(patient, inner)
    within = shapes.inside(cage, inner, width, depth, CAGE_POWER)
    within[inner.z > patient.height] = 0
    # Where the dome falls steeply backwards its border spans a voxel's whole depth.
    slope = np.abs(np.gradient(dome, grid.step[1], axis=0)) * grid.step[1]
    above = shapes.step_up(inner.z[:, None, None] - dome[None], grid.step[0] + slope[None])
    thorax = Thorax(patient, grid, hu, box, inner, cage, dome, within * above, np.zeros(0))
    side = np.abs(inner.x)[None, None, :] - mediastinum(patient, inner)[:, :, None]
    thorax.lung *= shapes.step_up(side, grid.step[2])
    organs.abdomen(thorax, within)
    organs.heart(thorax)
    bones.spine(thorax)
    organs.great_vessels(thorax)
    fill_lungs(thorax)
    organs.vessel_tree(thorax, rng)
    organs.airways(thorax)
    bones.ribs(thorax)
    bones.girdle(thorax)
    return thorax


def trunk(patient: Patient, grid: Grid) -> np.ndarray:
    """Air, skin fat and muscle: the chest, the shoulders and the neck, without what is inside."""
    z, height = grid.z, patient.height
    shoulder = smoothstep(z, 0.62 * height, 0.86 * height)
    neck = smoothstep(z, 0.98 * height, height + 42)
    coat = 9 + patient.wall
    width = patient.half_width + coat + (52 if patient.upright else 34) * shoulder
    width = width + (58 - width) * neck
    depth = patient.half_depth + coat + 4
    depth = depth * (1 - 0.16 * shoulder)
    depth = depth + (58 - depth) * neck
    centre = 8 + 0.10 * patient.half_depth * shoulder + 0 * z
    hu = np.full((len(z), len(grid.y), len(grid.x)), AIR_HU, np.float32)
    for part in shapes.slabs(len(z)):
        slab = grid.crop((part, slice(None), slice(None)))
        for extra, rise in ((patient.fat, FAT_HU - AIR_HU), (0.0, MUSCLE_HU - FAT_HU)):
            outline = (width[part] + extra, depth[part] + extra)
            field = shapes.superellipse(slab, *outline, centre[part], 2.5)
            layer = shapes.inside(field, slab, *outline, 2.5)
            layer *= np.float32(rise)
            hu[part] += layer
    for x in (-1, 1) if patient.breast else ():
        size = patient.breast
        place = (0.30 * height, -patient.half_depth - 8, x * 0.56 * patient.half_width)
        flat = 0.78 if patient.upright else 0.62  # breasts spread on a patient who lies
        radii = (1.05 * size, flat * size, (1.85 - flat) * size)
        window, breast = shapes.ball(grid, place, radii)
        outside = hu[window] < FAT_HU
        shapes.paint(hu[window], breast * outside, -60.0)
    return hu


def fill_lungs(thorax: Thorax) -> None:
    """Lung parenchyma, denser where it hangs low: the base upright, the back lying down."""
    patient, (z, y, _) = thorax.patient, thorax.inner.open()
    low = 0.5 - z / patient.height if patient.upright else y / patient.half_depth
    shapes.paint(thorax.hu_box, thorax.lung, patient.lung_hu + 30 * low)
