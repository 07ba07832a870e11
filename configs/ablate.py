"""Ablations of pre-training on the phantom: presets of configs/pretrain.py, the same data, steps and seeds."""

import ml_collections

from configs import compare, pretrain
from unimedi_jax.config.jobs import AblateConfig


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    return compare.shared(AblateConfig(presets=",".join(pretrain.ABLATIONS)), arg)
