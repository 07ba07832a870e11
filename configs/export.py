"""A checkpoint as files for timm, transformers and plain PyTorch."""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config() -> ConfigDict:
    return typed.config_dict(jobs.ExportConfig())
