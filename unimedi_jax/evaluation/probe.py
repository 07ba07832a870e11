"""Classification of findings: a linear probe on frozen features, or full fine-tuning, with few labels or all."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from data import progress
from data.errors import UserError
from unimedi_jax.config.jobs import FitConfig, ProbeConfig
from unimedi_jax.evaluation import classifiers, downstream, draws, fit, heads, results, trials
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.probe_outputs import TASKS, ProbeOutputs
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records, transforms
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import classification, linear_probe
from unimedi_jax.typing import Array, Float, PyTree

LOG = logging.getLogger(__name__)
METRICS = ("auroc/macro10", "auprc/macro10", "accuracy/macro")
SPLITS = ("train", "val", "test")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the classifiers of `configs/probe.py`."""
    downstream.run(config, workdir, ProbeConfig, evaluate, METRICS)


def evaluate(
    trained: Pretrained, dataset: RecordSet, config: ProbeConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """All rows of a set: each modality it has, encoder, share of the training patients and seed.

    Each of these trials is a part of `outputs`, with the probabilities of the test cases and the head of `trials.main`.

    Raises:
        UserError: a setting is wrong, the set has no labels, or no test or too few training records.
    """
    if config.tune not in TASKS:
        raise UserError(f"config.tune is one of {', '.join(TASKS)}, not {config.tune!r}")
    if not dataset.contract["labels"]:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has no labels: there is nothing to classify")
    modalities = trials.modalities(dataset, config.modality)
    trained.check(dataset, modalities)
    measure, outputs = _linear if config.tune == "linear" else _full, outputs or Outputs()
    rows = [row for modality in modalities for row in measure(trained, dataset, modality, config, outputs)]
    if not rows:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has {trials.TOO_FEW}")
    return rows


def _linear(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs
) -> list[results.Result]:
    """Every record through the network once; all shares and seeds are fitted on those features."""
    # With all labels, nothing is random.
    chosen = [
        trial
        for trial in trials.trials(config, dataset.size(modality, "train"))
        if trial.share < 1 or trial.seed == config.seeds[0]
    ]
    embedder, table = trained.embedder(rows=config.rows, ct_slices=config.ct_slices), []
    for name in dict.fromkeys(trial.encoder for trial in chosen):
        probes = LinearProbes(trained, dataset, modality, config, embedder, name)
        of_encoder = [trial for trial in chosen if trial.encoder == name]
        with progress.shown(len(of_encoder), f"linear probes, {modality}, {name} encoder") as tick:
            for trial in of_encoder:
                table += _part(outputs, probes, trial)
                tick(1)
    return table


def _full(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs
) -> list[results.Result]:
    """The whole network is trained, from the encoder's weights and a linear head of zeros."""
    task = FineTuning(trained, dataset, modality, config)
    chosen = trials.trials(config, len(task.cases["train"]))
    return [row for trial in chosen for row in _part(outputs, task, trial)]


def _part(outputs: Outputs, task: "LinearProbes | FineTuning", trial: Trial) -> list[results.Result]:
    """A trial as a part of the job."""
    facts = dict(task=TASKS[task.config.tune], modality=task.modality, head=trial == trials.main(task.config))
    fill = functools.partial(task.measure, trial)
    return outputs.part(fill, task.config, [task.dataset], **facts, **trial._asdict())


@dataclasses.dataclass(frozen=True)
class LinearProbes:
    """Linear probes of one set, modality and encoder, on features that are computed for the first of them."""

    pretrained: Pretrained
    dataset: RecordSet
    modality: str
    config: ProbeConfig
    embedder: features.Embedder
    encoder: str

    @functools.cached_property
    def labelled(self) -> dict[str, linear_probe.Labelled]:
        """CLS and labels of the records of each split."""
        sampler = self.pretrained.sampler(self.modality, keep=("report", "labels"))
        variables = self.pretrained.encoder(self.encoder)
        return {
            split: features.embed(self.embedder, variables, self.dataset, sampler, split).labelled
            for split in SPLITS
            if self.dataset.size(self.modality, split)
        }

    @functools.cached_property
    def saving(self) -> ProbeOutputs:
        """What becomes of the probabilities and the head of a trial."""
        one_of = classification.exclusive(self.labelled["train"].y)
        labels = self.labelled["test"].y
        return ProbeOutputs(self.pretrained, self.dataset, self.modality, self.config, labels, one_of)

    def measure(self, trial: Trial, part: Part) -> None:
        """Fits and tests one of them."""
        train, test, val = self.labelled["train"], self.labelled["test"], self.labelled.get("val")
        rows = draws.stratified(train.y, trial.share, seed=trial.seed)
        few = linear_probe.Labelled(train.x[rows], train.y[rows])
        classifier = linear_probe.fit(few, val, one_of=self.saving.one_of, seed=trial.seed)
        self.saving.measured(part, trial, classifier.probabilities(test.x))
        if self.saving.saves_head(part, trial):
            on_val = (classifier.probabilities(val.x), val.y) if val else None
            self.saving.head(part, trial, on_val, classifiers.linear_arrays(classifier))
        LOG.info("%s, %s: done", self.modality, trial)


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Classifiers of one set and modality, for `fit.train`."""

    pretrained: Pretrained
    dataset: RecordSet
    modality: str
    config: ProbeConfig

    @property
    def name(self) -> str:
        return self.modality

    @property
    def recipe(self) -> FitConfig:
        return self.config.full

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
        return Labelled(self.pretrained.sampler(self.modality, keep=("labels",)))

    def source(self, split: str) -> Any:
        return self.dataset.source(self.modality, split, (*records.TRAINED_ON[self.modality], "labels"))

    def start(self, trial: Trial) -> Network:
        count = len(self.dataset.contract["labels"])
        head = {"weights": jnp.zeros((self.pretrained.model.vision.width, count)), "bias": jnp.zeros(count)}
        return networks.start(self.pretrained, trial.encoder, {"params": head}, frozen=False)

    def logits(self, network: Network, tokens: Array) -> Float[Array, "b c"]:
        """Of every label or class."""
        slices = self.pretrained.use_slices(self.config.ct_slices)
        return classifiers.logits(self.pretrained, network, tokens, self.modality, ct_slices=slices)

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        return losses(self.logits(network, batch["tokens"]), batch["labels"], self.one_of).mean(), network.stats

    @functools.cached_property
    def predict(self) -> Callable[[Network, Array], Array]:
        return jax.jit(self.logits)

    def score(self, network: Network) -> float:
        """MGCA stops by the validation loss."""
        logits = np.stack(list(fit.predictions(self, "val", network)))
        return -float(jnp.mean(losses(logits, self.labels["val"], self.one_of)))

    def measure(self, trial: Trial, part: Part) -> None:
        """Trains and tests the network of a trial."""
        network = fit.train(self, trial)
        self.saving.measured(part, trial, self.probabilities("test", network))
        if self.saving.saves_head(part, trial):
            on_val = (self.probabilities("val", network), self.labels["val"]) if self.cases["val"] else None
            self.saving.head(part, trial, on_val, heads.network_arrays(network))

    def probabilities(self, split: str, network: Network) -> Float[np.ndarray, "n c"]:
        """Of the cases of a split."""
        return classifiers.probabilities(np.stack(list(fit.predictions(self, split, network))), self.one_of)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Tokens and labels of a record, without its report."""

    sampler: transforms.ToSample

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        sample = self.sampler(record, rng)
        return {"tokens": sample["tokens"], "labels": sample["labels"]}


def losses(logits: Float[Array, "b c"], labels: Float[Array, "b c"], one_of: bool) -> Float[Array, " b"]:
    """Loss of every case: cross-entropy over exclusive classes, else the mean over its known labels."""
    known = ~jnp.isnan(labels)
    targets = jnp.nan_to_num(labels)
    if one_of:
        return optax.softmax_cross_entropy(logits, targets) * known.all(axis=1)
    each = optax.sigmoid_binary_cross_entropy(logits, targets) * known
    return each.sum(axis=1) / jnp.maximum(known.sum(axis=1), 1)
