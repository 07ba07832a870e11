"""Findings of the phantom: what a patient has, and how it is drawn together with its masks."""

import dataclasses

import numpy as np
from scipy import ndimage

from data.phantom import places, pleura, shapes
from data.phantom.patient import Patient, Thorax, hemithorax
from data.phantom.places import Rule
from data.phantom.shapes import Occupancy

LABELS = ("nodule", "consolidation", "pleural effusion", "cardiomegaly", "pneumothorax")
NODULE, CONSOLIDATION, EFFUSION, CARDIOMEGALY, PNEUMOTHORAX = LABELS
NORMAL_SHARE, TWO_SHARE = 0.30, 0.25  # of all patients; of those with findings
ANYWHERE = Rule()


@dataclasses.dataclass
class Lesion:
    """One finding with its place. `occupancy` covers the box of the rib cage, like the lung's."""

    label: str
    side: str  # "right", "left" or "" where there is none
    occupancy: Occupancy
    size_mm: float = 0.0  # nodule: diameter; consolidation: longest extent
    share: float = 0.0  # effusion, pneumothorax: part of the hemithorax
    lobe: str = ""  # "upper", "middle" or "lower"
    zone: str = ""  # the same words for the third of the lung, as an X-ray is read
    count: int = 1
    calcified: bool = False


def draw_labels(rng: np.random.Generator) -> tuple[str, ...]:
    """None for 30 % of the patients, else one finding or, for a quarter of these, two."""
    if rng.random() < NORMAL_SHARE:
        return ()
    count = 2 if rng.random() < TWO_SHARE else 1
    return tuple(LABELS[i] for i in sorted(rng.permutation(len(LABELS))[:count]))


def draw_lesions(
    thorax: Thorax, labels: tuple[str, ...], rng: np.random.Generator, rule: Rule = ANYWHERE
) -> list[Lesion]:
    """Draws every finding of `labels` into the thorax, at most one a side beside the heart's.

    With a rule that names the patient's other thorax, equal states of `rng` give equal lesions in both.
    """
    side = str(rng.choice(["right", "left"]))
    lesions = []
    for label in labels:
        if label == CARDIOMEGALY:
            lesions.append(Lesion(label, "", thorax.heart))
            continue
        if label == NODULE:
            lesion = nodules(thorax, side, rng, rule)
        elif label == CONSOLIDATION:
            lesion = consolidation(thorax, side, rng, rule)
        else:
            fill = pleura.effusion if label == EFFUSION else pleura.pneumothorax
            filled = fill(thorax, side, rng)
            share = float(filled.sum() / hemithorax(thorax, side).sum())
            lesion = Lesion(label, side, filled, share=share)
        lesions.append(lesion)
        side = "left" if side == "right" else "right"
    return lesions


def nodules(thorax: Thorax, side: str, rng: np.random.Generator, rule: Rule = ANYWHERE) -> Lesion:
    """One or two round lumps of 8 to 30 mm (at least 14 on an X-ray, where smaller ones are invisible)."""
    count = 2 if rng.random() < 0.2 else 1
    calcified = rng.random() < 0.12
    on_xray = thorax.patient.upright or rule.other is not None
    smallest = 14.0 if on_xray else 8.0
    sizes = np.sort(smallest + (30.0 - smallest) * rng.beta(1.2, 1.6, count))[::-1]
    lung = hemithorax(thorax, side)
    total, taken = np.zeros_like(lung), []
    for diameter in sizes:
        if rule == ANYWHERE:
            centre = clear_place(thorax, lung * (total == 0), diameter / 2 + 3, rng)
        else:
            centre = places.nodule(thorax, side, diameter / 2 + 3, taken, rule, rng)
        taken.append((centre, diameter / 2))
        ratios = np.append(rng.uniform(0.85, 1.0, 2), 1.0)  # the longest axis lies in the slice
        turn = rng.uniform(0, np.pi)
        c, s = np.cos(turn), np.sin(turn)
        axes = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        if on_xray:  # ... or in the plane of the X-ray
            axes = axes[:, [1, 0, 2]]
        window, lump = shapes.ellipsoid(thorax.inner, centre, axes, ratios * diameter / 2)
        value = rng.uniform(250, 500) if calcified else rng.uniform(20, 60)
        shapes.paint(thorax.hu_box[window], lump, value)
        total[window] = np.maximum(total[window], lump)
    lobe, zone = lobe_at(thorax, side, taken[0][0]), zone_of(thorax, total)
    return Lesion(NODULE, side, total, float(sizes[0]), lobe=lobe, zone=zone, count=count, calcified=calcified)


def clear_place(thorax: Thorax, lung: Occupancy, reach: float, rng: np.random.Generator) -> np.ndarray:
    """A point (z, y, x) in mm with `reach` of lung on all sides; on X-rays not behind the heart."""
    inner, step = thorax.inner, np.array(thorax.inner.step)
    shift = np.concatenate([np.eye(3), -np.eye(3)]) * reach / step
    lowest = float(thorax.dome.max()) if thorax.patient.upright else -1e3
    behind = thorax.heart.max(1) > 0.1 if thorax.patient.upright else None
    last = np.array(lung.shape) - 1
    for scale in (1.0, 0.8, 0.6):  # a cramped lung takes a place closer to its wall
        spots = np.argwhere(lung[::2, ::2, ::2] > 0.95) * 2
        for spot in spots[rng.integers(0, len(spots), 400)]:
            around = np.clip(np.rint(spot + shift * scale), 0, last).astype(int)
            if lung[tuple(around.T)].min() < 0.95 or inner.z[spot[0]] < lowest:
                continue
            if behind is None or not behind[spot[0], spot[2]]:
                return np.array([inner.z[spot[0]], inner.y[spot[1]], inner.x[spot[2]]])
    return np.array([inner.z[spot[0]], inner.y[spot[1]], inner.x[spot[2]]])


def lobe_at(thorax: Thorax, side: str, place: np.ndarray) -> str:
    """The lobe that holds a point (z, y, x) in mm."""
    parts = lobes(thorax.patient, side, place[0], place[1])
    return max(parts, key=lambda name: float(parts[name]))


def lobes(patient: Patient, side: str, z: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """For each lobe how far (mm) the points at `z`, `y` lie inside its fissures."""
    oblique = z - patient.height * (0.39 + 0.29 * y / patient.half_depth)
    if side == "left":
        return {"upper": oblique, "lower": -oblique}
    flat = z - 0.47 * patient.height
    return {"upper": np.minimum(oblique, flat), "middle": np.minimum(oblique, -flat), "lower": -oblique}


def consolidation(thorax: Thorax, side: str, rng: np.random.Generator, rule: Rule = ANYWHERE) -> Lesion:
    """A patch of filled airspace in one lobe: soft ragged border, sharp fissure, open bronchi."""
    lobe = str(rng.choice(list(lobes(thorax.patient, side, *thorax.inner.open()[:2]))))
    region = lobe_region(thorax, side, lobe)
    if rule.other is None:
        spots = np.argwhere((region * visible(thorax))[::2, ::2, ::2] > 0.9) * 2
        spot = spots[rng.integers(len(spots))]
        axes = (thorax.inner.z, thorax.inner.y, thorax.inner.x)
        centre = np.array([axis[i] for axis, i in zip(axes, spot, strict=True)])
    else:
        centre = places.consolidation(thorax, lambda each: lobe_region(each, side, lobe) * visible(each), rule, rng)
    radii = rng.uniform(30, 55, 3) * (1.0, 0.9, 1.0)
    window = thorax.inner.window(tuple(centre - 1.4 * radii), tuple(centre + 1.4 * radii))
    z, y, x = ((a - c) / r for a, c, r in zip(thorax.inner.crop(window).open(), centre, radii, strict=True))
    noise = cloud(tuple(s.stop - s.start for s in window), rng)
    field = 1 - np.sqrt(z * z + y * y + x * x) + 0.22 * noise
    patch = np.clip(0.5 + 2.2 * field, 0, 1).astype(np.float32) * region[window]
    texture = np.clip(0.94 + 0.07 * cloud(patch.shape, rng), 0.5, 1).astype(np.float32)
    shapes.paint(thorax.hu_box[window], patch * texture, rng.uniform(0, 40))
    total = np.zeros_like(region)
    total[window] = patch
    open_bronchi(thorax, total, centre, side, rng)
    zone = zone_of(thorax, total)
    return Lesion(CONSOLIDATION, side, total, extent(thorax, total), lobe=lobe, zone=zone)


def lobe_region(thorax: Thorax, side: str, lobe: str) -> Occupancy:
    """The part of the lung that is one lobe."""
    parts = lobes(thorax.patient, side, *thorax.inner.open()[:2])
    return hemithorax(thorax, side) * shapes.step_up(parts[lobe], thorax.inner.step[0])


def visible(thorax: Thorax) -> np.ndarray | bool:
    """Where an X-ray shows a patch: little of what lies behind heart and diaphragm. A CT shows it anywhere."""
    if not thorax.patient.upright:
        return True
    return (thorax.heart.max(1) < 0.1)[:, None] & (thorax.inner.z > thorax.dome.max() - 15)[:, None, None]


def zone_of(thorax: Thorax, occupancy: Occupancy) -> str:
    """The third of the lung between diaphragm and apex that holds the centre."""
    patient = thorax.patient
    height = np.average(thorax.inner.z, weights=occupancy.sum((1, 2)))
    part = (height - patient.dome_right) / (patient.height - patient.dome_right)
    return "lower" if part < 0.34 else "middle" if part < 0.58 else "upper"


def cloud(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of about unit variance."""
    coarse = rng.standard_normal((7, 7, 7), dtype=np.float32)
    zoom = [n / 7 for n in shape]
    return 1.4 * ndimage.zoom(coarse, zoom, order=1, mode="nearest", grid_mode=True)


def open_bronchi(thorax: Thorax, patch: Occupancy, centre: np.ndarray, side: str, rng: np.random.Generator) -> None:
    """Air-filled branches that run from the hilum through the patch."""
    patient = thorax.patient
    sign = -1 if side == "right" else 1
    hilum = np.array([0.5 * patient.height, 0.15 * patient.half_depth, sign * 42.0])
    for _ in range(4):
        end = centre + rng.normal(0, 16, 3) + 0.35 * (centre - hilum)
        start = hilum + 0.4 * (centre - hilum) + rng.normal(0, 5, 3)
        window, lumen = shapes.capsule(thorax.inner, start.astype(np.float32), end.astype(np.float32), (2.8, 1.6))
        shapes.paint(thorax.hu_box[window], lumen * patch[window], -900.0)


def extent(thorax: Thorax, occupancy: Occupancy) -> float:
    """The longest side, in mm, of the box around what is more than half filled."""
    spans = []
    for axis, step in enumerate(thorax.inner.step):
        rest = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero((occupancy > 0.5).any(rest))
        spans.append((hit[-1] - hit[0] + 1) * step if len(hit) else 0.0)
    return float(max(spans))
