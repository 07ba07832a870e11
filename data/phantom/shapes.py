"""Grids in mm and the simple bodies that the phantom is drawn with."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

Occupancy = np.ndarray  # float32, share of a voxel that a structure fills
Window = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Voxel centres in mm of the patient's frame: z up from the costophrenic level, y back, x left."""

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    whole: "Grid | None" = None  # what it was cut from: has the step of an axis of which one plane is left

    @property
    def step(self) -> tuple[float, float, float]:
        """Voxel edges (z, y, x) in mm."""
        pairs = zip(self.axes, (self.whole or self).axes, strict=True)
        long = (axis if len(axis) > 1 else whole for axis, whole in pairs)
        return tuple(float(axis[1] - axis[0]) for axis in long)

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coordinates along z, y and x."""
        return self.z, self.y, self.x

    @property
    def edge(self) -> float:
        """How wide the border of a body in the axial plane is drawn, in mm."""
        return (self.step[1] + self.step[2]) / 2

    def window(self, low: tuple[float, ...], high: tuple[float, ...]) -> Window:
        """The slices that hold all voxels between two corners (z, y, x) in mm."""
        axes = zip(self.axes, low, high, strict=True)
        return tuple(slice(int(np.searchsorted(a, lo)), int(np.searchsorted(a, hi, "right"))) for a, lo, hi in axes)

    def crop(self, window: Window) -> "Grid":
        """The part of the grid inside a window."""
        return Grid(*(axis[part] for axis, part in zip(self.axes, window, strict=True)), self.whole or self)

    def open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coordinates shaped to broadcast: (z, 1, 1), (1, y, 1), (1, 1, x)."""
        return self.z[:, None, None], self.y[None, :, None], self.x[None, None, :]


def step_up(value: np.ndarray, width: float | np.ndarray) -> Occupancy:
    """A ramp from 0 to 1 around `value` 0, one voxel `width` wide: the partial-volume effect.

    Works in `value` itself, which is spent: fresh memory costs more here than arithmetic.
    """
    value = np.asarray(value, np.float32)
    value /= np.asarray(width, np.float32)
    value += np.float32(0.5)
    return np.clip(value, 0, 1, out=value)


def paint(hu: np.ndarray, occupancy: Occupancy, value: float | np.ndarray) -> None:
    """Mixes `value` into `hu` in place by the share of each voxel that is filled."""
    shares, values = (np.broadcast_to(a, hu.shape) for a in (occupancy, np.float32(value)))
    for part in slabs(len(hu)):
        change = values[part] - hu[part]
        change *= shares[part]
        hu[part] += change


def slabs(length: int) -> list[slice]:
    """Cuts the z axis into pieces whose temporaries stay in the processor's cache."""
    return [slice(i, i + 16) for i in range(0, length, 16)]


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """A rise from 0 at `low` to 1 at `high` without corners."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def superellipse(grid: Grid, width: np.ndarray, depth: np.ndarray, centre: np.ndarray, power: float) -> np.ndarray:
    """|x/width|^p + |(y - centre)/depth|^p on the grid, each profile given per z. float32."""
    across = (np.abs(grid.x)[None] / width[:, None]) ** power
    along = (np.abs(grid.y[None] - centre[:, None]) / depth[:, None]) ** power
    return along.astype(np.float32)[:, :, None] + across.astype(np.float32)[:, None, :]


def inside(field: np.ndarray, grid: Grid, width: np.ndarray, depth: np.ndarray, power: float) -> Occupancy:
    """Occupancy of a `superellipse` below 1, its border one voxel wide; profiles per z in mm.

    Voxels may be longer along y than along x. A ramp as long as the voxel in the direction of
    the border's normal keeps sums along y exact, so that X-rays show no steps.
    """
    across = np.clip(np.abs(grid.x)[None] / width[:, None], 0, 1) ** power
    along = 1 - across  # holds on the border itself
    slope = power * (across * grid.step[2] / width[:, None] + along * grid.step[1] / depth[:, None])
    result = 1 - field
    result *= (1 / slope).astype(np.float32)[:, None, :]
    result += np.float32(0.5)
    return np.clip(result, 0, 1, out=result)


def ellipsoid(grid: Grid, centre: np.ndarray, axes: np.ndarray, radii: np.ndarray) -> tuple[Window, Occupancy]:
    """A rotated ellipsoid: `axes` rows are its unit axes in (z, y, x), `radii` in mm."""
    reach = np.sqrt(((axes * np.asarray(radii)[:, None]) ** 2).sum(0)) + np.array(grid.step)
    window = grid.window(tuple(centre - reach), tuple(centre + reach))
    z, y, x = (a - c for a, c in zip(grid.crop(window).open(), centre, strict=True))
    square = np.float32(0)
    for axis, radius in zip(axes.astype(np.float32), radii, strict=True):
        line = (z * axis[0] + y * axis[1]) + x * axis[2]
        square = square + (line / np.float32(radius)) ** 2
    edge = min(radii) / 2
    return window, step_up((1 - square) * np.float32(edge), grid.edge)


def ball(grid: Grid, centre: tuple[float, ...], radii: tuple[float, ...]) -> tuple[Window, Occupancy]:
    """An ellipsoid along the axes; centre and radii (z, y, x) in mm."""
    return ellipsoid(grid, np.array(centre), np.eye(3), np.array(radii))


def capsule(grid: Grid, start: np.ndarray, end: np.ndarray, radius: tuple[float, float]) -> tuple[Window, Occupancy]:
    """A round tube from `start` to `end` (z, y, x) in mm; the radius runs from one to the other."""
    reach = max(radius) + max(grid.step) / 2
    window = grid.window(tuple(np.minimum(start, end) - reach), tuple(np.maximum(start, end) + reach))
    z, y, x = (a - c for a, c in zip(grid.crop(window).open(), start, strict=True))
    line = np.asarray(end - start, np.float32)
    along = (z * line[0] + y * line[1] + x * line[2]) / (line @ line)
    along = np.clip(along, 0, 1, out=along)
    distance = (z - along * line[0]) ** 2
    distance += (y - along * line[1]) ** 2
    distance += (x - along * line[2]) ** 2
    distance = np.sqrt(distance, out=distance)
    return window, step_up(radius[0] + (radius[1] - radius[0]) * along - distance, grid.edge)


def chain(grid: Grid, points: ArrayLike, radii: Sequence[float]) -> Iterator[tuple[Window, Occupancy]]:
    """The capsules of a tube through `points` (z, y, x) in mm, with a radius at each."""
    ends = itertools.pairwise(np.asarray(points, np.float32))
    for (start, end), radius in zip(ends, itertools.pairwise(radii), strict=True):
        yield capsule(grid, start, end, radius)


def splat(shape: tuple[int, ...], grid: Grid, points: np.ndarray, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spreads small lumps over the eight nearest voxels.

    `points` (n, 3) in mm, `volume` (n,) in mm^3. Returns flat voxel indices and shares (8n,).
    """
    step = np.array(grid.step)
    origin = np.array([grid.z[0], grid.y[0], grid.x[0]])
    place = (points - origin) / step
    keep = ((place >= 0) & (place < np.array(shape) - 1)).all(1)
    place, volume = place[keep], volume[keep] / step.prod()
    low = place.astype(np.int32)
    part = (place - low).astype(np.float32)
    strides = np.array([shape[1] * shape[2], shape[2], 1], np.int32)
    base = low @ strides
    volume = volume.astype(np.float32)
    indices, shares = [], []
    for corner in np.ndindex(2, 2, 2):
        share = volume
        for axis, side in enumerate(corner):
            share = share * (part[:, axis] if side else 1 - part[:, axis])
        indices.append(base + np.int32(np.dot(corner, strides)))
        shares.append(share)
    return np.concatenate(indices), np.concatenate(shares)
