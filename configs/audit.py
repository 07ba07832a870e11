"""Whether names, identifiers or report text of a raw source have reached a run's or a set's folder."""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """A folder to search, and the source to search it for."""
    if arg:
        raise ValueError(f"configs/audit.py takes no argument, not {arg!r}")
    config = ml_collections.ConfigDict()
    config.job = "audit"
    config.path = ""  # a run's workdir, a set's folder, an export
    config.source = ""  # the CSV that the set was built from
    return config
