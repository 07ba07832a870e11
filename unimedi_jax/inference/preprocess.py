"""Records' pixels and texts to the tokens that a trained network takes, by its own configuration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.reports import tokenizer
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import transforms


def film_tokens(trained: Pretrained, films: np.ndarray) -> np.ndarray:
    """X-rays uint8 (b, 256, 256) to tokens uint8 (b, n, v): the centre, as in evaluation."""
    size, patch, crop = trained.size("xray"), trained.patch("xray"), trained.config["input"]["crop"]
    cut = (transforms.film(transforms.crop(film, crop, 0, None), size) for film in films)
    return np.stack([transforms.to_tokens(film, size, patch) for film in cut])


def volume_tokens(trained: Pretrained, volumes: np.ndarray) -> np.ndarray:
    """Volumes int16 HU (b, 32, 128, 128) to tokens int16 (b, n, v)."""
    sampler = trained.sampler("ct")
    return np.stack([transforms.to_tokens(x, sampler.volume_size, sampler.volume_patch) for x in volumes])


def tokens(trained: Pretrained, films: np.ndarray, volumes: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """All three: {"xray", "ct", "report": (ids int32 (b, l), mask bool)}."""
    return {
        "xray": film_tokens(trained, films),
        "ct": volume_tokens(trained, volumes),
        "report": tokenizer.encode(trained.tokenizer, texts, trained.report_length),
    }
