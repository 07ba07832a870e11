"""Records to samples for detection: the whole X-ray at the detector's size, and its boxes relative to that size."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from unimedi_jax import patches
from unimedi_jax.input import dense


def truth(record: dict[str, Any]) -> Float[np.ndarray, "n 4"]:
    """Boxes (y0, x0, y1, x1) of an X-ray in its own pixels, whatever the finding."""
    return np.asarray(record["boxes"], np.float32).reshape(-1, 5)[:, 1:]


@dataclasses.dataclass(frozen=True)
class ToBoxes:
    """Record to `tokens` (n, v), `boxes` (m, 4) as centre and size (y, x, h, w) in [0, 1], and bool `real` (m,)."""

    size: tuple[int, int]
    patch: tuple[int, int]
    most: int  # boxes of an X-ray; of more, the largest stay

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        image = record["image"]
        low, high = np.split(truth(record) / np.tile(np.array(image.shape, np.float32), 2), 2, axis=1)
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
        boxes = boxes[np.argsort(-boxes[:, 2:].prod(axis=1), kind="stable")][: self.most]
        filled = np.zeros((self.most, 4), np.float32)
        filled[: len(boxes)] = boxes
        pixels = dense.whole(image, self.size)
        return {
            "tokens": np.ascontiguousarray(patches.patchify(pixels[None], self.patch)[0]),
            "boxes": filled,
            "real": np.arange(self.most) < len(boxes),
        }
