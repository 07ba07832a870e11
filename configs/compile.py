"""The training step compiled for a machine that is not here: configs/compile.py:v5e-256, :v5p-64, :v4-32, :v6e-16,
:h100-1, :h100-8, :a100-64. Further words are presets of configs/pretrain.py: `:v5e-4,demo`.

Needs the compilers of requirements-aot.txt, and no device.
"""

from ml_collections import ConfigDict

from configs import pretrain
from unimedi_jax.config import jobs, typed


def get_config(arg: str = "v5e-256") -> ConfigDict:
    target, _, presets = arg.partition(",")
    config = typed.config_dict(jobs.CompileConfig(target=target))
    config.pretrain = pretrain.get_config(presets)
    return config
