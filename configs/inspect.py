"""What a built set, a run or an export holds, and how its records were made."""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "") -> ConfigDict:
    if arg:
        raise ValueError(f"configs/inspect.py takes no argument, not {arg!r}")
    return typed.config_dict(jobs.InspectConfig())
