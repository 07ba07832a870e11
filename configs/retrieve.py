"""Retrieval and zero-shot with a trained model: configs/retrieve.py:<built set>, the phantom without one."""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import RetrieveConfig


def get_config(arg: str = "phantom") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(RetrieveConfig(data=arg or "phantom")))
