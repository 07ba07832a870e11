"""The evaluations that a data folder allows: --config.checkpoint=runs/... --config.data_dir=records.

Probe, retrieval and slices take minutes; --config.tasks=probe,retrieve,slices,segment,detect trains decoders too, and
candidates are LUNA16's. Without `config.data` all built sets of the folder are used, or the phantom if there is none.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "") -> ConfigDict:
    return typed.config_dict(jobs.EvaluateConfig(data=arg))
