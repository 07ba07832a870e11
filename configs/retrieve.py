"""Retrieval and zero-shot with a trained model: configs/retrieve.py:<built set>, the phantom without one."""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "phantom") -> ConfigDict:
    return typed.config_dict(jobs.RetrieveConfig(data=arg or "phantom"))
