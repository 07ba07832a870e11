"""Classification of findings with a trained encoder: configs/probe.py:<built set>, the phantom without one.

Linear probe: logistic regression on frozen CLS features, to its optimum; C by validation AUROC. `config.tune=full`
trains the whole network; with `config.protocol=unimiss`, `hkbu` or `voco` on CTs at a size of their own. Labels that
are uncertain (-1 in a manifest) or unknown are left out, label by label.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "phantom") -> ConfigDict:
    return typed.config_dict(jobs.ProbeConfig(data=arg or "phantom"))
