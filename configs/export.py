"""A checkpoint as files for timm, transformers and plain PyTorch."""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import ExportConfig


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(ExportConfig()))
