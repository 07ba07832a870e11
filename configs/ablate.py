"""Ablations of pre-training on the phantom: presets of configs/pretrain.py, the same data, steps and seeds."""

import ml_collections

from configs import pretrain


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "ablate"
    config.data = "phantom"
    config.data_dir = "records"
    config.presets = ",".join(["unimedi", *pretrain.ABLATIONS])  # unimedi: config.base as it is
    config.seeds = (0, 1, 2)
    config.base = pretrain.get_config(arg or "demo")  # what all share, as in --config.base.steps=300
    config.changes = ml_collections.ConfigDict(pretrain.ABLATIONS)
    return config
