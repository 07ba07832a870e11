"""Classification of findings with a trained encoder: configs/probe.py:<built set>, the phantom without one.

Linear probe: logistic regression on frozen CLS features, to its optimum; C by validation AUROC. `config.tune=full`
trains the whole network. Labels that are uncertain (-1 in a manifest) or unknown are left out, label by label.
"""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import ProbeConfig


def get_config(arg: str = "phantom") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(ProbeConfig(data=arg or "phantom")))
