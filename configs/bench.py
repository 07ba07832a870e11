"""How fast it is, on this machine: configs/bench.py:step, :input, :checkpoint, :compile, :build, :all, or :step+input.

Further words are presets of configs/pretrain.py: `:step,demo` measures the demo's step instead of ViT-B's.
"""

import dataclasses

import ml_collections

from configs import pretrain
from unimedi_jax.config.jobs import BenchConfig


def get_config(arg: str = "all") -> ml_collections.ConfigDict:
    what, _, presets = arg.partition(",")
    config = ml_collections.ConfigDict(dataclasses.asdict(BenchConfig(what=what)))
    config.pretrain = pretrain.get_config(presets)
    config.pretrain.model.dtype = "float32"  # as the twin
    if not presets:
        config.pretrain.batch.update({"xray": 4, "ct": 2})  # a few seconds a step on two cores
    return config
