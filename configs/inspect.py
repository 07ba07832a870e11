"""What a built set, a run or an export holds, and how its records were made."""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import InspectConfig


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    if arg:
        raise ValueError(f"configs/inspect.py takes no argument, not {arg!r}")
    return ml_collections.ConfigDict(dataclasses.asdict(InspectConfig()))
