"""Random batches in the pipeline's format, the same for both sides. numpy alone."""

import math
from typing import Any

import numpy as np


def random(settings: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """`settings`: `config.pretrain` as a plain dict and `vocab_size`. Reports fill their length."""
    rng = np.random.default_rng(0)
    model, length = settings["model"], settings["input"]["report_length"]
    image = ((model["image_size"],) * 2, model["image_patch"], np.uint8, 0, 256)
    volume = (model["volume_size"], model["volume_patch"], np.int16, -1000, 1000)
    batch = {}
    for name, (size, patch, dtype, low, high) in {"xray": image, "ct": volume}.items():
        rows = settings["batch"][name]
        tokens = math.prod(size) // math.prod(patch)
        if rows:
            batch[name] = {
                "tokens": rng.integers(low, high, (rows, tokens, math.prod(patch))).astype(dtype),
                "text": rng.integers(0, settings["vocab_size"], (rows, length)).astype(np.int32),
                "text_mask": np.ones((rows, length), bool),
            }
    return batch
