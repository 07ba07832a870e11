"""UniMedI beside the systems it is compared with: presets of configs/pretrain.py, the same data, steps and seeds.

The presets are those of the demo, or of another start: `configs/compare.py:paper`. Several settings of
`--config.presets`, such as `clip+xray_only`, are joined by a plus.
"""

from ml_collections import ConfigDict

from configs import pretrain, systems
from unimedi_jax.config import jobs, typed


def get_config(arg: str = "") -> ConfigDict:
    return shared(jobs.CompareConfig(presets=",".join(["unimedi", "unimedi_plus", *systems.SYSTEMS])), arg)


def shared(settings: jobs.AblateConfig, arg: str) -> ConfigDict:
    """The settings of a job that trains presets, beside the start that they share and what each changes in it."""
    starts = [name for name in pretrain.STARTS if name]
    if arg and arg not in starts:
        raise ValueError(f"{arg!r} is no start: one of {', '.join(starts)}; presets are named in config.presets")
    config = typed.config_dict(settings)
    config.base = pretrain.get_config(f"{arg or 'demo'},unimedi")
    config.changes = ConfigDict(pretrain.changes(small=arg in ("", "demo")))
    return config
