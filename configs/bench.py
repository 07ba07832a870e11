"""How fast it is, here: configs/bench.py:step, :input, :checkpoint, :compile, :build, :decode, :embed, :start, :search
or :all.

Several are joined by a plus, as in :step+input. Further words are presets of configs/pretrain.py: `:step,demo` measures
the demo's step instead of ViT-B's. With `--config.pretrain.trainable=...` the step is measured beside the one that
trains everything.
"""

from ml_collections import ConfigDict

from configs import pretrain
from unimedi_jax.config import jobs, typed


def get_config(arg: str = "all") -> ConfigDict:
    what, _, presets = arg.partition(",")
    config = typed.config_dict(jobs.BenchConfig(what=what))
    config.pretrain = pretrain.get_config(presets)
    config.pretrain.model.dtype = "float32"  # as the twin
    if not presets:
        config.pretrain.batch.update({"xray": 4, "ct": 2})  # a few seconds a step on two cores
    return config
