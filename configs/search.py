"""Similar cases: --config.index=FOLDER, made from --config.data=SETS or --config.source=FILES, then searched by
--config.query=PICTURE and --config.text="A sentence.", or on the page of --config.serve=8080.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config() -> ConfigDict:
    return typed.config_dict(jobs.SearchConfig())
