"""Ablations of pre-training on the phantom: presets of configs/pretrain.py, the same data, steps and seeds."""

import ml_collections

from configs import compare, pretrain


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = compare.get_config(arg)
    config.job = "ablate"
    config.presets = ",".join(["unimedi", *pretrain.ABLATIONS])
    config.seeds = (0, 1, 2)
    del config.encoders, config.encoder_size
    return config
