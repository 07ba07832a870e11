"""The systems that UniMedI is compared with, as presets of configs/pretrain.py: the same towers, another objective.

`objective` names it and changes its settings, whose defaults are in unimedi_jax/config/objectives.py. CTs are their
volume's tokens in training and evaluation.
"""

import copy
import dataclasses

from unimedi_jax.config.objectives import OBJECTIVES

LINEAR = {"model": {"projection": "linear"}}
BLIND = {"checkpoint": {"keep_best": 0}}  # aligned with no reports: there is no zero-shot score to go by
SYSTEMS = {
    "convirt": {"objective": {"name": "contrast", "temperature": 0.1, "image_weight": 0.75}},
    "clip": {"objective": {"name": "contrast", "learn_temperature": True}, **LINEAR},
    "siglip": LINEAR,
    "gloria": {"model": {"projection": "linear", "report_pooling": "mean"}},
    "mgca": {},
    "dino": {"evals": {"network": "teacher"}, **BLIND},
    "mocov3": {"model": {"position_init": "sincos"}, "ema": {"base": 0.99}, "freeze_patch_embed": True, **BLIND},
    "aclip": {"freeze_patch_embed": True, **LINEAR},
    "unimiss": BLIND,
    "joint": BLIND,
    "simmim": BLIND,
    "mae": BLIND,
    "mrm": BLIND,
    "prior": {"input": {"shuffle_sentences": True}},
    "medklip": BLIND,
    "kad": {},
    "med_unic": {"model": {"report_dropout": 0.1}},  # it alone makes two views of a report
    "supervised": BLIND,  # by the labels: a ceiling, not a rival
}
_LIGHT = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}
# Of the objective, in the demo.
_SMALLER = {"mae": _LIGHT, "mrm": _LIGHT, "prior": {"attention_heads": 4}, "joint": {"layers": 2}}
# In the demo, where validation patients chose another peak rate than its 1e-3 (docs/results.md).
_SLOWER = {name: {"optim": {"peak_lr": 3e-4}} for name in ("clip", "siglip")}


def changes(*, small: bool) -> dict[str, dict]:
    """What each system changes in a configuration, its whole objective written out; `small`: in the demo's."""
    slower = _SLOWER if small else {}
    return {
        name: {**copy.deepcopy(own | slower.get(name, {})), "objective": _objective(name, small)}
        for name, own in SYSTEMS.items()
    }


def _objective(system: str, small: bool) -> dict:
    own = {"name": system, **SYSTEMS[system].get("objective", {}), **(_SMALLER.get(system, {}) if small else {})}
    return dataclasses.asdict(OBJECTIVES[own["name"]](**own))
