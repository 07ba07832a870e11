"""UniMedI beside the systems it is compared with: presets of configs/pretrain.py, the same data, steps and seeds.

The presets are those of the demo, or of another start: `configs/compare.py:paper`. Several settings of
`--config.presets`, such as `clip+xray_only`, are joined by a plus.
"""

import ml_collections

from configs import pretrain, systems


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    starts = [name for name in pretrain.STARTS if name]
    if arg and arg not in starts:
        raise ValueError(f"{arg!r} is no start: one of {', '.join(starts)}; presets are named in config.presets")
    config = ml_collections.ConfigDict()
    config.job = "compare"
    config.data = "phantom"
    config.data_dir = "records"
    config.presets = ",".join(["unimedi", *systems.SYSTEMS])  # unimedi: config.base as it is
    config.seeds = (0,)
    # What all share, as in --config.base.steps=300; its objective is UniMedI's and its ablations' alone.
    config.base = pretrain.get_config(arg or "demo")
    # What each preset changes in it, as in --config.changes.clip.objective.temperature=0.1.
    config.changes = ml_collections.ConfigDict(pretrain.changes(small=arg in ("", "demo")))
    # Files of released ViTs in timm's names, comma-separated, each with the mean and deviation of the grey levels in
    # [0, 1] that it was trained with: "mgca.safetensors,rad_dino.safetensors:0.53:0.26". Without: 0.5 and 0.5.
    config.encoders = ""
    config.encoder_size = 224  # pixels they see; position tables are interpolated to it
    return config
