"""What a run learns: UniMedI's objective, and those of the systems it is compared with, one file each.

All of them train the same towers in the same loop. A new one is a dataclass of settings in
`unimedi_jax/config/objectives.py`, a class derived from it and from `Objective` in a file here, a line in OBJECTIVES,
and a preset in configs/systems.py.
"""

from typing import Any

from unimedi_jax.objectives import (
    aclip,
    contrast,
    dino,
    gloria,
    joint,
    kad,
    mae,
    med_unic,
    medklip,
    mgca,
    mocov3,
    mrm,
    prior,
    siglip,
    simmim,
    supervised,
    unimedi,
    unimiss,
)
from unimedi_jax.objectives.base import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "unimedi": unimedi.Objective,
    "contrast": contrast.Objective,  # ConVIRT, CLIP
    "siglip": siglip.Objective,
    "gloria": gloria.Objective,
    "mgca": mgca.Objective,
    "aclip": aclip.Objective,
    "unimiss": unimiss.Objective,
    "joint": joint.Objective,
    "dino": dino.Objective,
    "mocov3": mocov3.Objective,
    "simmim": simmim.Objective,
    "mae": mae.Objective,
    "mrm": mrm.Objective,
    "prior": prior.Objective,
    "medklip": medklip.Objective,
    "kad": kad.Objective,
    "med_unic": med_unic.Objective,
    "supervised": supervised.Objective,
}


def make(name: str = "unimedi", **settings: Any) -> Objective:
    """An objective from plain settings, the ones of `config.objective`.

    Raises:
        ValueError: no such objective, or no such setting of it.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective.name must be one of {', '.join(OBJECTIVES)}, not {name!r}")
    return OBJECTIVES[name](**settings)
