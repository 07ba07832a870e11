"""The pre-training settings on their way to another process."""

import json
from typing import Any

import ml_collections

from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """`config.pretrain` of a bench's config, and its `vocab_size` beside them."""
    return json.loads(config.pretrain.to_json_best_effort()) | {"vocab_size": config.vocab_size}


def restored(settings: dict[str, Any]) -> PretrainConfig:
    """The settings again, `vocab_size` apart."""
    return typed(PretrainConfig, {name: value for name, value in settings.items() if name != "vocab_size"})
