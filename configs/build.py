"""Building a set of records: `:manifest` from a CSV of one's own, `:phantom`, the embedded one, or a public set.

The public sets and their options: data/README.md.
"""

import dataclasses

import ml_collections

from unimedi_jax.config import building

SOURCES = building.SOURCES


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The settings of one source."""
    return ml_collections.ConfigDict(dataclasses.asdict(building.build_config(arg)))
