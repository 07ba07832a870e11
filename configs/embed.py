"""Embeddings of files by a trained network."""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import EmbedConfig


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(EmbedConfig()))
