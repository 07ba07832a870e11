"""What a built set, a run or an export holds, and how its records were made."""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`config.path` is the only setting."""
    if arg:
        raise ValueError(f"configs/inspect.py takes no argument, not {arg!r}")
    config = ml_collections.ConfigDict()
    config.job = "inspect"
    config.path = ""  # a set's folder, a run's workdir, an export
    return config
