"""What every objective is: a batch to a loss, and what must be there for it."""

import abc
from typing import ClassVar

import flax.linen as nn

from unimedi_jax.models import towers
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree

Loss = tuple[Float[Array, ""], tuple[Metrics, PyTree]]  # the loss; metrics and the new statistics


class Objective(abc.ABC):
    """The base of all of them, frozen dataclasses whose fields are the settings of `config.objective`."""

    teacher: ClassVar[tuple[str, ...]] = ()  # parts of the parameters that an EMA teacher follows
    reads: ClassVar[bool] = True  # reports teach it
    aligned: ClassVar[bool] = True  # they end in one space with the images: zero-shot and retrieval mean something

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """Modules trained beside the towers; the parameters of the head "x" are `head_x`."""
        return {}

    def stats(self, model: towers.UniMedI) -> PyTree:
        """What the state keeps from step to step beside "batch_stats", at its start: centres, queues."""
        return {}

    @abc.abstractmethod
    def loss(
        self,
        params: Params,
        teacher: Params,
        stats: PyTree,
        batch: Batch,
        key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        model: towers.UniMedI,
    ) -> Loss:
        """The loss of a batch of X-rays and CTs, either of which may be absent; the metrics and the new `stats`."""
