"""Full fine-tuning of a classifier: the whole network is trained, from the encoder's weights and a head of zeros."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

from unimedi_jax.config import trainable as rules
from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import classifiers, draws, fit, heads
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.downstream import Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.probe_outputs import ProbeOutputs
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records, supervised, transforms
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import classification
from unimedi_jax.typing import Array, Float, PyTree

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Classifiers of one set and modality, for `fit.train`."""

    pretrained: Pretrained
    dataset: RecordSet
    modality: str
    config: ProbeConfig

    draw = staticmethod(draws.stratified)  # of a share of the training cases

    @property
    def name(self) -> str:
        return self.modality

    @property
    def recipe(self) -> FitConfig:
        return self.config.full

    @property
    def keys(self) -> fit.Keys:
        return fit.keys("full")

    @property
    def trainable(self) -> rules.Rules:
        return self.config.trainable

    @functools.cached_property
    def labels(self) -> dict[str, Float[np.ndarray, "n c"]]:
        """Of the records of each split."""
        return {
            split: np.stack([record["labels"] for record in self.dataset.source(self.modality, split, ("labels",))])
            for split in SPLITS
            if self.dataset.size(self.modality, split)
        }

    @property
    def cases(self) -> dict[str, range]:
        return {split: range(len(self.labels.get(split, ()))) for split in SPLITS}

    @property
    def strata(self) -> Float[np.ndarray, "n c"]:
        return self.labels["train"]

    @functools.cached_property
    def one_of(self) -> bool:
        """Whether the labels are exclusive classes."""
        return classification.exclusive(self.labels["train"])

    @functools.cached_property
    def saving(self) -> ProbeOutputs:
        """What becomes of the probabilities and the head of a trial."""
        labels = self.labels["test"]
        return ProbeOutputs(self.pretrained, self.dataset, self.modality, self.config, labels, self.one_of)

    @property
    def sampler(self) -> Callable[..., dict[str, np.ndarray]]:
        return Labelled(self.pretrained.sampler(self.modality, keep=("labels",)).central)

    def source(self, split: str) -> Any:
        return self.dataset.source(self.modality, split, (*records.TRAINED_ON[self.modality], "labels"))

    def start(self, trial: Trial) -> Network:
        count = len(self.dataset.contract["labels"])
        head = {"weights": jnp.zeros((self.pretrained.model.vision.width, count)), "bias": jnp.zeros(count)}
        return networks.start(self.pretrained, trial.encoder, {"params": head}, frozen=False)

    def logits(self, network: Network, batch: PyTree) -> Float[Array, "b c"]:
        """Of every label or class."""
        settings = {"ct_slices": self.pretrained.use_slices(self.config.ct_slices), "lateral": batch.get("lateral")}
        return classifiers.logits(self.pretrained, network, batch["tokens"], self.modality, **settings)

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        return losses(self.logits(network, batch), batch["labels"], self.one_of).mean(), network.stats

    @functools.cached_property
    def predict(self) -> Callable[[Network, PyTree], Array]:
        return jax.jit(self.logits)

    def score(self, network: Network) -> float:
        """MGCA stops by the validation loss."""
        logits = np.stack(list(fit.predictions(self, "val", network)))
        return -float(jnp.mean(losses(logits, self.labels["val"], self.one_of)))

    def measure(self, trial: Trial, part: Part) -> None:
        """Trains and tests the network of a trial."""
        network = fit.train(self, trial, self.draw)
        self.saving.measured(part, trial, self.probabilities("test", network))
        if self.saving.saves_head(part, trial):
            on_val = (self.probabilities("val", network), self.labels["val"]) if self.cases["val"] else None
            self.saving.head(part, trial, on_val, self.arrays(network))

    def arrays(self, network: Network) -> dict[str, np.ndarray]:
        """What is saved of the network."""
        return heads.network_arrays(network)

    def probabilities(self, split: str, network: Network) -> Float[np.ndarray, "n c"]:
        """Of the cases of a split."""
        return classifiers.probabilities(np.stack(list(fit.predictions(self, split, network))), self.one_of)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Tokens and labels of a record, and whether it is lateral where the network asks, without its report."""

    sampler: transforms.ToSample

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        sample = self.sampler(record, rng)
        return {name: sample[name] for name in (*supervised.INPUTS, "labels") if name in sample}


def losses(logits: Float[Array, "b c"], labels: Float[Array, "b c"], one_of: bool) -> Float[Array, " b"]:
    """Loss of every case: cross-entropy over exclusive classes, else the mean over its known labels."""
    known = ~jnp.isnan(labels)
    targets = jnp.nan_to_num(labels)
    if one_of:
        return optax.softmax_cross_entropy(logits, targets) * known.all(axis=1)
    each = optax.sigmoid_binary_cross_entropy(logits, targets) * known
    return each.sum(axis=1) / jnp.maximum(known.sum(axis=1), 1)
