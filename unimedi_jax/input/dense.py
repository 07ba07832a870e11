"""Records to samples for segmentation: the whole X-ray or volume, and its mask on the network's grid."""

import dataclasses
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from unimedi_jax import patches
from unimedi_jax.input import cuts, transforms

UNANNOTATED = 255
TARGETS = {"organs": "organ_mask", "lesions": "lesion_mask", "boxes": "boxes"}
SCALE, DEGREES, SHARE = 0.1, 10.0, 0.5  # MGCA's augmentation of X-rays: half of them are scaled and rotated


def truth(record: dict[str, Any], target: str) -> UInt8[np.ndarray, "*space"] | None:
    """Classes 1, 2, ... of a record on its own grid, 0 elsewhere; None where nobody annotated it.

    "organs" are the classes of the organ mask; "lesions" is one class, whatever the finding; "boxes" is the union of
    the boxes, as RSNA's are used.
    """
    if target == "boxes":
        shape = (record["image"] if "image" in record else record["volume"]).shape
        mask = np.zeros(shape, np.uint8)
        for box in record["boxes"]:
            low, high = np.rint(box[1:].reshape(2, -1)).astype(int)
            mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
        return mask
    return classes(record[TARGETS[target]], target)


def classes(mask: UInt8[np.ndarray, "*space"], target: str) -> UInt8[np.ndarray, "*space"] | None:
    """Classes 1, 2, ... of a mask that somebody drew, None of one that nobody did."""
    if (mask == UNANNOTATED).all():
        return None
    known = np.where(mask == UNANNOTATED, 0, mask)
    return known if target == "organs" else (known > 0).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ToMask:
    """Record to `tokens` (n, v) and int32 `mask` on the network's grid; a generator rotates and scales X-rays."""

    modality: str
    target: str
    size: tuple[int, ...]  # of the network, (y, x) or (z, y, x)
    patch: tuple[int, ...]
    # CTs: cut a window of `size` out of the record, with air around a smaller one, instead of shrinking the whole.
    window: bool = False

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        mask = truth(record, self.target)
        if self.modality == "xray":
            image = record["image"]
            if rng is not None and rng.random() < SHARE:
                image, mask = rotate_and_scale(image, mask, rng)
            pixels = whole(image, self.size)
            mask = cv2.resize(mask, self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        elif self.window:
            spare = np.maximum(np.subtract(record["volume"].shape, self.size), 0)
            at = spare // 2 if rng is None else rng.integers(0, spare + 1)
            box = tuple(slice(a, a + n) for a, n in zip(at, self.size, strict=True))
            pixels = cuts.window(record["volume"], box, self.size, cuts.OUTSIDE["volume"])
            mask = cuts.window(mask, box, self.size, 0)
        else:
            pixels = whole(record["volume"], self.size)
            steps = [old // new for old, new in zip(mask.shape, self.size, strict=True)]
            mask = mask[tuple(slice(step // 2, None, step) for step in steps)]
        tokens = patches.patchify(pixels[None], self.patch)[0]
        return {"tokens": np.ascontiguousarray(tokens), "mask": mask.astype(np.int32)}


def whole(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The whole of a record's X-ray (y, x) or volume (z, y, x) at the network's size."""
    if pixels.ndim == 3:
        return transforms.shrink(pixels, size)
    return transforms.resample(pixels, size)


def rotate_and_scale(
    image: UInt8[np.ndarray, "y x"], mask: UInt8[np.ndarray, "y x"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "y x"], UInt8[np.ndarray, "y x"]]:
    """An X-ray and its mask, scaled by up to a tenth and rotated by up to ten degrees about the centre."""
    centre = tuple((n - 1) / 2 for n in image.shape[::-1])
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-DEGREES, DEGREES), 1 + rng.uniform(-SCALE, SCALE))
    shape = image.shape[::-1]
    return (
        cv2.warpAffine(image, matrix, shape, flags=cv2.INTER_LINEAR),
        cv2.warpAffine(mask, matrix, shape, flags=cv2.INTER_NEAREST),
    )
