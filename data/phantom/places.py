"""Where lesions lie: evenly over the height of the lung, or at one place in two pictures of the same patient."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data.phantom.patient import Thorax, hemithorax
from data.phantom.shapes import Occupancy

RELAXED = (1.0, 0.8, 0.6, 0.0)  # a cramped lung takes a place closer to its wall
Points = np.ndarray  # (n, 3) float64, (z, y, x) in mm
Taken = tuple[np.ndarray, float]  # place and radius, mm, of a lesion that is there already


class Rule(NamedTuple):
    """How the places of lesions are drawn; the default, anywhere in the lung of the one thorax, is not drawn here."""

    by_height: bool = False  # nodules: all heights that have room for one are equally likely
    other: Thorax | None = None  # the same patient in the other position: a place must suit both


def nodule(
    thorax: Thorax, side: str, reach: float, taken: Sequence[Taken], rule: Rule, rng: np.random.Generator
) -> np.ndarray:
    """A point (z, y, x) in mm with `reach` of lung on all sides, clear of the places `taken`.

    On an X-ray it lies above the diaphragm and not behind the heart.
    """
    first, others = _order(thorax, rule)
    spots = _points(first, hemithorax(first, side)[::2, ::2, ::2] > 0.95)
    apart = [(_moved(place, thorax, first), radius) for place, radius in taken]
    for scale in RELAXED:
        free = np.all([np.linalg.norm(spots - place, axis=1) > scale * (reach + r) for place, r in apart], axis=0)
        suits = np.broadcast_to(free, len(spots)).copy()
        for each in (first, *others):
            suits &= _clear(each, side, _moved(spots, first, each), reach * scale)
        if suits.any():
            break
    choices = spots[suits] if suits.any() else spots
    return _moved(choices[_pick(choices, rule.by_height, rng)], first, thorax)


def consolidation(
    thorax: Thorax, region: Callable[[Thorax], Occupancy], rule: Rule, rng: np.random.Generator
) -> np.ndarray:
    """A point (z, y, x) in mm that lies in the `region` of both thoraces where it shows."""
    first, others = _order(thorax, rule)
    spots = _points(first, region(first)[::2, ::2, ::2] > 0.9)
    inside = [_at(region(each), each, _moved(spots, first, each)) > 0.9 for each in others]
    suits = np.all(inside, axis=0)
    choices = spots[suits] if suits.any() else spots
    return _moved(choices[rng.integers(len(choices))], first, thorax)


def _order(thorax: Thorax, rule: Rule) -> tuple[Thorax, tuple[Thorax, ...]]:
    """Whose grid lists the places, whichever of the two is examined: that of the patient who stands."""
    if rule.other is None:
        return thorax, ()
    return (thorax, (rule.other,)) if thorax.patient.upright else (rule.other, (thorax,))


def _moved(points: Points, source: Thorax, target: Thorax) -> Points:
    """Points of one thorax in another of the same patient: breath stretches the lung along its height."""
    return points * np.array([target.patient.height / source.patient.height, 1.0, 1.0])


def _points(thorax: Thorax, chosen: np.ndarray) -> Points:
    """Places of the chosen voxels of every second row, column and slice."""
    z, y, x = (2 * index for index in np.nonzero(chosen))
    return np.stack([thorax.inner.z[z], thorax.inner.y[y], thorax.inner.x[x]], axis=1).astype(np.float64)


def _at(values: Occupancy, thorax: Thorax, points: Points) -> np.ndarray:
    """The values at the voxels nearest to points; those outside are taken at the border."""
    origin = np.array([axis[0] for axis in (thorax.inner.z, thorax.inner.y, thorax.inner.x)])
    index = np.rint((points - origin) / np.array(thorax.inner.step)).astype(int)
    index = np.clip(index, 0, np.array(values.shape) - 1)
    return values[tuple(np.moveaxis(index, -1, 0))]


def _clear(thorax: Thorax, side: str, points: Points, reach: float) -> np.ndarray:
    """Which points have `reach` of lung on all sides, and show on the X-ray of a patient who stands."""
    lung = hemithorax(thorax, side)
    steps = reach * np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))])
    clear = np.all([_at(lung, thorax, points + step) >= 0.95 for step in steps], axis=0)
    if thorax.patient.upright:
        heart = np.broadcast_to(thorax.heart.max(1, keepdims=True), thorax.heart.shape)
        clear &= (points[:, 0] >= thorax.dome.max()) & (_at(heart, thorax, points) <= 0.1)
    return clear


def _pick(points: Points, by_height: bool, rng: np.random.Generator) -> int:
    """The row of one point: all equally likely, or all heights equally likely."""
    if not by_height:
        return int(rng.integers(len(points)))
    heights = np.unique(points[:, 0])
    rows = np.flatnonzero(points[:, 0] == heights[rng.integers(len(heights))])
    return int(rows[rng.integers(len(rows))])
