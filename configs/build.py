"""Building a set of records: `:manifest` from a CSV of one's own, `:phantom`, the embedded one, or a public set.

The public sets and their options: data/README.md.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import building, typed

SOURCES = building.SOURCES


def get_config(arg: str = "") -> ConfigDict:
    """The settings of one source."""
    return typed.config_dict(building.build_config(arg))
