"""What every objective is: a forward pass on bound networks to losses, and what must be there for it."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.mean import Mean
from unimedi_jax.models import towers
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Metrics, Params, PyTree, Scalar, Step

Losses = dict[str, dict[str, Float[Array, " _"]]]  # loss -> modality -> its value for each sample
# (params, teacher's params, model state, batch, key, step) -> the loss; the metrics and the new model state
LossFunction = Callable[..., tuple[Float[Array, ""], tuple[Metrics, PyTree]]]


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """The result of a forward pass."""

    losses: Losses
    metrics: Metrics = dataclasses.field(default_factory=dict)  # beside those of the losses
    state: PyTree = dataclasses.field(default_factory=dict)  # the objective's own, after this batch


class Objective(abc.ABC):
    """The base of all of them. Their settings are a dataclass of `unimedi_jax.config`, which they derive from too."""

    teacher: ClassVar[tuple[str, ...]] = ()  # parts of the parameters that an EMA teacher follows, where there is one
    uses_reports: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False  # a batch holds `labels` (b, c), NaN unknown; `c` is the setting `labels`
    texts: ClassVar[tuple[str, ...]] = ("text",)  # token sequences of a sample; each has a mask beside it
    has_joint_space: ClassVar[bool] = True  # images and reports end in one: zero-shot and retrieval mean something

    def teacher_parts(self, model: UniMedI) -> tuple[str, ...]:
        """The parts that are averaged in this run: `teacher`, or none where these settings need no teacher."""
        return self.teacher

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Modules trained beside the towers; the parameters of the head "x" are `head_x`."""
        return {}

    def state(self, model: UniMedI) -> PyTree:
        """What is handed from step to step beside the parameters, at its start: centres, say."""
        return {}

    def weight(self, loss: str, step: Step) -> Scalar:
        """The weight of a loss in the sum: the setting `weight_<loss>`, or 1 where there is none."""
        return getattr(self, f"weight_{loss}", 1.0)

    def example_batch(self, model: UniMedI, length: int = 8) -> Batch:
        """One X-ray and one CT of zeros with reports of `length` tokens, as `forward` takes them."""
        batch = towers.example_batch(model, length, self.texts)
        if not self.uses_labels:
            return batch
        return {name: part | {"labels": jnp.zeros((1, self.labels))} for name, part in batch.items()}

    def stages(self) -> tuple["Objective", ...]:
        """The objectives of the stages of a run, each compiled by itself; they differ in settings that set shapes."""
        return (self,)

    def stage(self, step: Step) -> Int[Array, ""]:
        """Which of the stages a step belongs to."""
        return jnp.zeros((), jnp.int32)

    @abc.abstractmethod
    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> LossTerms:
        """The losses of a batch of X-rays and CTs, either of which may be absent.

        `student` and `teacher` are bound: their methods and heads are called like functions. Random draws take
        `student.make_rng("draws")`, dropout its own stream.
        """


def loss_function(model: UniMedI, objective: Objective) -> LossFunction:
    """The pure function that a training step differentiates: binds parameters, random keys and running statistics."""

    def loss(
        params: Params, teacher: Params, model_state: PyTree, batch: Batch, key: Key[Array, ""], step: Step
    ) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        own = {name: value for name, value in model_state.items() if name != "batch_stats"}

        def forward(student: UniMedI) -> LossTerms:
            return objective.forward(student, bind_teacher(model, teacher), batch, own, step)

        terms, batch_stats = apply(model, forward, params, model_state["batch_stats"], key)
        value, metrics = total(terms.losses, objective, step)
        metrics |= {"loss": Mean.of(value), **terms.metrics}
        return value, (metrics, {"batch_stats": batch_stats, **own, **terms.state})

    return loss


def apply(
    model: UniMedI, forward: Callable[[UniMedI], Any], params: Params, batch_stats: PyTree, key: Key[Array, ""]
) -> tuple[Any, PyTree]:
    """`forward` on the model bound to its variables and to the random streams "dropout" and "draws" of `key`.

    Returns its result, and the running statistics after it.
    """
    dropout, draws = jax.random.split(key)
    bound = nn.apply(forward, model, mutable=["batch_stats"])
    rngs = {"dropout": dropout, "draws": draws}
    result, updated = bound({"params": params, "batch_stats": batch_stats}, rngs=rngs)
    return result, updated.get("batch_stats", {})


def bind_teacher(model: UniMedI, params: Params) -> UniMedI:
    """The model bound to an EMA teacher's parameters, those of its parts alone. No gradient reaches them."""
    return model.bind({"params": jax.lax.stop_gradient(params)})


def init_variables(model: UniMedI, objective: Objective, key: Key[Array, ""]) -> PyTree:
    """Fresh variables of the towers and of the objective's heads: {"params": ..., "batch_stats": ...}.

    Every tower has its parameters, whatever the objective uses; a head has those that the objective's forward pass asks
    for. Their values depend on the key and on their names alone.
    """
    batch = objective.example_batch(model)

    def forward(network: UniMedI) -> None:
        network.run_towers(batch)
        objective.forward(network, network, batch, objective.state(model), jnp.zeros((), jnp.int32))

    dropout, draws = jax.random.split(jax.random.key(0))  # they leave no trace in the variables
    return nn.init(forward, model)({"params": key, "dropout": dropout, "draws": draws})


def total(losses: Losses, objective: Objective, step: Step) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses, each a mean over all samples, and the means by loss and modality."""
    metrics, value = {}, jnp.zeros(())
    for name, each in losses.items():
        means = {modality: Mean.of(values) for modality, values in each.items()}
        metrics |= {f"{modality}/{name}": mean for modality, mean in means.items()}
        metrics[f"loss/{name}"] = whole = sum(means.values(), start=Mean(0.0, 0.0))
        value += objective.weight(name, step) * whole.value
    return value, metrics
