"""Whether names, identifiers or report text of a raw source have reached a run's or a set's folder."""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "") -> ConfigDict:
    if arg:
        raise ValueError(f"configs/audit.py takes no argument, not {arg!r}")
    return typed.config_dict(jobs.AuditConfig())
