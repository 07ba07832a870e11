"""Records' pixels and texts to the tokens that a trained network takes, by its own configuration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.reports import tokenizer
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import transforms


def film_tokens(trained: Pretrained, films: Sequence[np.ndarray]) -> np.ndarray:
    """X-rays uint8 (y, x) of records to tokens uint8 (b, n, v): the centre, as in evaluation."""
    return np.stack([trained.sampler("xray").film(film) for film in films])


def laterals(views: Sequence[str]) -> np.ndarray:
    """Which of these views are lateral, boolean (b,): what a network with `lateral_type` takes beside the tokens."""
    return np.array([transforms.is_lateral({"view": view}) for view in views], bool)


def volume_tokens(trained: Pretrained, volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Volumes int16 HU (z, y, x) of records to tokens int16 (b, n, v); of several windows the central one."""
    return np.stack([trained.sampler("ct").central.volume(volume) for volume in volumes])


def window_tokens(trained: Pretrained, volumes: Sequence[np.ndarray]) -> np.ndarray:
    """The same of all windows that an evaluation averages: (b, w, n, v); of one (b, n, v)."""
    return np.stack([trained.sampler("ct").volume(volume) for volume in volumes])


def tokens(
    trained: Pretrained, films: Sequence[np.ndarray], volumes: Sequence[np.ndarray], texts: Sequence[str]
) -> dict[str, Any]:
    """All three: {"xray", "ct", "report": (ids int32 (b, l), mask bool)}."""
    return {
        "xray": film_tokens(trained, films),
        "ct": volume_tokens(trained, volumes),
        "report": tokenizer.encode(trained.tokenizer, texts, trained.report_length),
    }
