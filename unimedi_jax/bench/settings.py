"""The pre-training settings on their way to another process: JSON has no tuples."""

import json
from typing import Any

import ml_collections


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """`config.pretrain` of a bench's config, and its `vocab_size` beside them."""
    return json.loads(config.pretrain.to_json_best_effort()) | {"vocab_size": config.vocab_size}


def restored(settings: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config again."""
    return ml_collections.ConfigDict(_tuples(settings))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
