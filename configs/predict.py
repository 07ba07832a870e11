"""Findings, masks or boxes of X-rays and CTs by a trained network: --config.source=PICTURES --config.out=out.csv.

Without `config.head` zero-shot, by the prompts of the set that the network was trained on. A picture that cannot be
read has no row; it is logged in `<out>.rejected.jsonl` with the reason.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config() -> ConfigDict:
    return typed.config_dict(jobs.PredictConfig())
