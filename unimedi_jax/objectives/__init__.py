"""What a run learns: UniMedI's objective, and those of the systems it is compared with, one file each.

All of them train the same towers in the same loop. A new one is a frozen dataclass with the members of `Objective`, a
line in OBJECTIVES, and its settings as a preset of configs/pretrain.py.
"""

from typing import Any, Protocol

import flax.linen as nn

from unimedi_jax.models import unimedi as models
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
    unimedi,
    unimiss,
)
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree


class Objective(Protocol):
    """One batch to one loss, and what must be there for it. Its fields are the settings of `config.objective`."""

    teacher: tuple[str, ...]  # parts of the parameters that an EMA teacher follows; () for none
    reads: bool  # whether reports teach it
    aligned: bool  # whether they end in one space with the images, so that zero-shot and retrieval mean something

    def heads(self, model: models.UniMedI) -> dict[str, nn.Module]:
        """Modules trained beside the towers; the parameters of the head "x" are `head_x`."""

    def stats(self, model: models.UniMedI) -> PyTree:
        """What the state keeps from step to step beside "batch_stats", at its start: centres, queues."""

    def loss(
        self,
        params: Params,
        teacher: Params,
        stats: PyTree,
        batch: Batch,
        key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        model: models.UniMedI,
    ) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        """The loss of a batch of X-rays and CTs, either of which may be absent; the metrics and the new `stats`."""


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
}


def make(name: str = "unimedi", **settings: Any) -> Objective:
    """An objective from plain settings, the ones of `config.objective`.

    Raises:
        ValueError: no such objective, or no such setting of it.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective.name is one of {', '.join(OBJECTIVES)}, not {name!r}")
    return OBJECTIVES[name](**settings)
