"""Embeddings of files by a trained network."""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config() -> ConfigDict:
    return typed.config_dict(jobs.EmbedConfig())
