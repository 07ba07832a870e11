"""The paper's claims C1 to C4 on the phantom, each with its gates, intervals over patients and seeds, and a verdict.

Without `--config.split=test --config.test_seed=N` validation patients are evaluated: settings are chosen on these.
`:large` is for a GPU: five times the patients and the steps.
"""

from ml_collections import ConfigDict

from configs import compare, pretrain
from unimedi_jax.config import presets
from unimedi_jax.config.jobs import ClaimsConfig

LARGE = 5


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "large"):
        raise ValueError(f"{arg!r} is no size of the claims: large, or nothing")
    config = compare.shared(ClaimsConfig(), "demo")
    # Tokens, registers and halves of reports are the same in all models: they differ only in what the claims are about.
    presets.apply(config.base, pretrain.PLUS)
    # The runs' own evaluations play no part in the verdicts: none in between, and a short one at the end.
    config.base.evals.update(every=1_000_000_000, limit=64)
    config.base.checkpoint.keep_best = 0
    if arg == "large":
        config.xrays *= LARGE
        config.plenty *= LARGE
        config.scarce *= LARGE
        config.sets = f"{config.plenty},{config.scarce},{config.scarce // 2}"
        config.base.steps *= LARGE
    return config
