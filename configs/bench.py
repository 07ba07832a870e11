"""How fast it is, on this machine: configs/bench.py:step, :input, :checkpoint, :compile, :build, :all, or :step+input.

Further words are presets of configs/pretrain.py: `:step,demo` measures the demo's step instead of ViT-B's.
"""

import ml_collections

from configs import pretrain


def get_config(arg: str = "all") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    what, _, presets = arg.partition(",")
    config.job = "bench"
    config.what = what
    config.rounds = 5  # of which the median and the spread are told
    config.vocab_size = 28996
    config.bfloat16 = True  # the twin's time in bfloat16 beside it
    config.data = "phantom"  # records that input reads
    config.data_dir = "records"
    # Originals that build reads, and a DataLoader beside input: JPEGs of 3056 x 2544, .nii.gz of 512 x 512 x 300.
    config.films = 24
    config.scans = 2
    config.workers = 2
    config.pretrain = pretrain.get_config(presets)
    config.pretrain.model.dtype = "float32"  # as the twin
    if not presets:
        config.pretrain.batch.update({"xray": 4, "ct": 2})  # a few seconds a step on two cores
    return config
