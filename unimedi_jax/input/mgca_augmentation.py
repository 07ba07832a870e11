"""Augmentation of X-rays as MGCA's classification has it (mgca/datasets/transforms.py), by its own library, Pillow.

The records' X-rays are what it reads: 256 pixels, the longest side fitted, zeros around. Saturation, hue and greyscale
change no grey picture. Labels name no sides: these pictures, and no others here, may be mirrored.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter

from unimedi_jax.input import transforms

JITTERED, BLURRED, MIRRORED = 0.8, 0.5, 0.5  # chances
JITTER, SIGMA = (0.6, 1.4), (0.1, 2.0)  # factor of brightness and contrast, radius of the blur in pixels
RECORD = 256  # pixels of a side; of larger films as large a share is cropped
Film = UInt8[np.ndarray, "y x"]


def moco(film: Film, rng: np.random.Generator) -> Film:
    """CheXpert's: brightness and contrast in random order, blur, mirror."""
    picture = Image.fromarray(film)
    if rng.random() < JITTERED:
        for enhance in rng.permutation([ImageEnhance.Brightness, ImageEnhance.Contrast]):
            picture = enhance(picture).enhance(rng.uniform(*JITTER))
    if rng.random() < BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*SIGMA)))
    film = np.asarray(picture)
    return film[:, ::-1] if rng.random() < MIRRORED else film


@dataclasses.dataclass(frozen=True)
class ToLabelled:
    """Record to `tokens` and `labels`: a crop of 224 of 256 pixels, anywhere with a generator, else from the centre."""

    size: tuple[int, int]  # of the network
    patch: tuple[int, int]
    jittered: bool  # augmented as CheXpert is; RSNA and COVIDx are cropped alone
    tells_lateral: bool = False  # as in `transforms.ToSample`
    crop: int = 224

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        side = len(record["image"])
        film = transforms.crop(record["image"], self.crop * side // RECORD, side, rng)
        if rng is not None and self.jittered:
            film = np.ascontiguousarray(moco(film, rng))
        tokens = transforms.to_tokens(transforms.film(film, self.size), self.size, self.patch)
        views = {"lateral": transforms.is_lateral(record)} if self.tells_lateral else {}
        return {"tokens": np.ascontiguousarray(tokens), **views, "labels": record["labels"]}
