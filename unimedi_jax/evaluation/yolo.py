"""YOLOv3's loss with MGCA's weights: one anchor of each scale is responsible for every true box.

Ours differs from MGCA's code (mgca/utils/yolo_loss.py) in three places, and `published` is that code to the letter: its
overlap of a box and an anchor counts a cell more on either side, as of pixels; an object's own anchor is pushed towards
empty too where they overlap by no more than a half; and the finding's loss is a mean over all cells, not over objects.
"""

import functools

import jax
import numpy as np
import optax
from jax import numpy as jnp

from unimedi_jax.models import detector
from unimedi_jax.typing import Array, Bool, Float

PLACE, SIZE, EMPTY, IGNORED_ABOVE = 2.5, 2.5, 0.5, 0.5


def loss(
    answers: list[Float[Array, "b _y _x 3 6"]],
    boxes: Float[Array, "b m 4"],
    real: Bool[Array, "b m"],
    grid: tuple[int, int],
    *,
    published: bool = False,
) -> Float[Array, ""]:
    """Sum over the scales of 2.5 (centre + size) + objectness + finding.

    Args:
        answers: of `detector.Detector`.
        boxes: centre and size (y, x, h, w) in parts of the picture.
        real: which of them are boxes and no padding.
        grid: tokens along y and x.
        published: as MGCA's code has it.
    """
    of_scale = functools.partial(_of_scale, boxes=boxes, real=real, grid=grid, published=published)
    return sum(of_scale(x, scale=scale) for scale, x in enumerate(answers))


def _of_scale(x: Array, boxes: Array, real: Array, scale: int, grid: tuple[int, int], published: bool = False) -> Array:
    batch, rows, columns, count, _ = x.shape
    cell = detector.STRIDES[scale] / np.array([[grid]], np.float32)
    shapes = jnp.asarray(detector.anchors(scale))
    at = boxes[..., :2] / cell
    corner = jnp.clip(jnp.floor(at), 0, np.array([[[rows - 1, columns - 1]]])).astype(jnp.int32)
    overlap = (
        _overlap(boxes[..., 2:] / cell, shapes / cell[0], 1.0) if published else _overlap(boxes[..., 2:], shapes, 0.0)
    )
    best = overlap.argmax(axis=-1)
    # What is padding points outside the map, where writing is dropped.
    y, x_at = jnp.where(real, corner[..., 0], rows), corner[..., 1]
    case = jnp.arange(batch)[:, None]
    chosen = jnp.zeros((batch, rows, columns, count), bool).at[case, y, x_at, best].set(True, mode="drop")
    ignored = jnp.zeros_like(chosen).at[case, y, x_at].max(overlap > IGNORED_ABOVE, mode="drop")
    size = jnp.log(jnp.maximum(boxes[..., 2:], 1e-6) / shapes[best])
    place = jnp.concatenate([at - corner, size], axis=-1)
    target = jnp.zeros((*chosen.shape, 4)).at[case, y, x_at, best].set(place, mode="drop")
    cross = optax.sigmoid_binary_cross_entropy
    taken = chosen[..., None]
    centre = (cross(x[..., :2], target[..., :2]) * taken).mean(axis=(0, 1, 2, 3)).sum()
    sides = (((x[..., 2:4] - target[..., 2:4]) ** 2) * taken).mean(axis=(0, 1, 2, 3)).sum()
    objectness = cross(x[..., 4], chosen.astype(jnp.float32))
    weight = jnp.where(chosen, 1.0, EMPTY * ~ignored)
    present = jax.nn.softplus(-x[..., 5]) * chosen
    if published:
        emptied = EMPTY * (jax.nn.softplus(x[..., 4]) * (chosen & ~ignored)).mean()
        return PLACE * centre + SIZE * sides + (objectness * weight).mean() + emptied + present.mean()
    finding = present.sum() / jnp.maximum(chosen.sum(), 1)
    return PLACE * centre + SIZE * sides + (objectness * weight).mean() + finding


def _overlap(boxes: Float[Array, "b m 2"], anchors: Float[Array, "3 2"], more: float) -> Float[Array, "b m 3"]:
    """Intersection over union of shapes with one corner in common, each side `more` longer."""
    boxes, anchors = boxes[..., None, :] + more, anchors[None, None] + more
    both = jnp.minimum(boxes, anchors).prod(axis=-1)
    return both / (boxes.prod(axis=-1) + anchors.prod(axis=-1) - both)
