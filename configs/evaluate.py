"""Every evaluation that a data folder allows: --config.checkpoint=runs/... --config.data_dir=records.

Without `config.data` all built sets of the folder are used, or the phantom where there is none.
"""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import EvaluateConfig


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(EvaluateConfig(data=arg)))
