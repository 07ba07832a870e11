"""Records' pixels and texts to the tokens that a trained network takes, by its own configuration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.reports import tokenizer
from unimedi_jax.inference import pretrained
from unimedi_jax.input import transforms


def film_tokens(trained: pretrained.Trained, films: np.ndarray) -> np.ndarray:
    """Films uint8 (b, 256, 256) to tokens uint8 (b, n, v): the centre, as in evaluation."""
    size, side = trained.config["input"]["crop"], trained.config["model"]["image_size"]
    cut = (transforms.crop(film, size, 0, None) for film in films)
    return np.stack([transforms.to_tokens(film, (side, side), trained.model.image_patch) for film in cut])


def volume_tokens(trained: pretrained.Trained, volumes: np.ndarray) -> np.ndarray:
    """Volumes int16 HU (b, 32, 128, 128) to tokens int16 (b, n, v)."""
    size = tuple(trained.config["model"]["volume_size"])
    return np.stack([transforms.to_tokens(volume, size, trained.model.volume_patch) for volume in volumes])


def report_tokens(trained: pretrained.Trained, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts to ids int32 (b, l) and mask bool."""
    return tokenizer.encode(trained.reports, texts, trained.config["input"]["report_length"])


def tokens(trained: pretrained.Trained, films: np.ndarray, volumes: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """All three: {"xray", "ct", "report": (ids, mask)}."""
    return {
        "xray": film_tokens(trained, films),
        "ct": volume_tokens(trained, volumes),
        "report": report_tokens(trained, texts),
    }
