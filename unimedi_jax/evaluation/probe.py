"""Classification of findings: a linear probe on frozen features, or full fine-tuning, with few labels or all."""

import dataclasses
import functools
import logging
import pathlib

import ml_collections

from data import progress
from data.errors import UserError
from unimedi_jax.config.jobs import OF_VOLUMES, ProbeConfig
from unimedi_jax.evaluation import classifiers, downstream, draws, mgca_probe, results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.evaluation.fine_tuning import SPLITS, FineTuning
from unimedi_jax.evaluation.probe_outputs import TASKS, ProbeOutputs, task_name
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.evaluation.volume_tuning import VolumeTuning
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import classification, linear_probe

LOG = logging.getLogger(__name__)
METRICS = ("auroc/macro10", "auprc/macro10", "accuracy/macro")
RATES = ("sensitivity/macro", "specificity/macro")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the classifiers of `configs/probe.py`."""
    shown = (*METRICS, *RATES) if config.protocol in OF_VOLUMES else METRICS
    downstream.run(config, workdir, ProbeConfig, evaluate, shown)


def evaluate(
    trained: Pretrained, dataset: RecordSet, config: ProbeConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """All rows of a set: each modality it has, encoder, share of the training cases and seed.

    Each of these trials is a part of `outputs`, with the probabilities of the test cases and the head of `trials.main`.

    Raises:
        UserError: a setting is wrong, the set has no labels, or no test or too few training records.
    """
    if config.tune not in TASKS:
        raise UserError(f"config.tune must be one of {', '.join(TASKS)}, not {config.tune!r}")
    if not dataset.contract["labels"]:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has no labels: there is nothing to classify")
    asked = {"ours": config.modality, "mgca": "xray"}.get(config.protocol, "ct")
    modalities = trials.modalities(trained, dataset, asked)
    if config.protocol not in OF_VOLUMES:  # whose task compares what they depend on
        trained.check(dataset, modalities)
    measure = {"ours": _linear if config.tune == "linear" else _full, "mgca": _published}.get(config.protocol, _full)
    outputs = outputs or Outputs()
    rows = [row for modality in modalities for row in measure(trained, dataset, modality, config, outputs)]
    if not rows:
        counts = {name: (dataset.size(name, "train"), dataset.size(name, "test")) for name in modalities}
        raise trials.too_few(f"the set {dataset.name} in {dataset.folder}", counts, config)
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
    if config.protocol in OF_VOLUMES:
        task = VolumeTuning(trained, dataset, modality, config)
        task.check()
    chosen = trials.trials(config, len(task.cases["train"]))
    return [row for trial in chosen for row in _part(outputs, task, trial)]


def _published(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs
) -> list[results.Result]:
    """MGCA's linear classifier: every step with its own augmentation, one seed of its own."""
    config = dataclasses.replace(config, seeds=(draws.PUBLISHED_SEED,))
    task = mgca_probe.Linear(trained, dataset, modality, config)
    chosen = trials.trials(config, len(task.cases["train"]))
    return [row for trial in chosen for row in _part(outputs, task, trial)]


def _part(outputs: Outputs, task: "LinearProbes | FineTuning", trial: Trial) -> list[results.Result]:
    """A trial as a part of the job."""
    facts = dict(task=task_name(task.config), modality=task.modality, head=trial == trials.main(task.config))
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
        """CLS, labels and patients of the records of each split."""
        sampler = self.pretrained.sampler(self.modality, keep=("report", "labels", "patient"))
        variables = self.pretrained.encoder(self.encoder)
        return {
            split: features.embed(self.embedder, variables, self.dataset, sampler, split, images_alone=True).labelled
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
        classifier = linear_probe.fit(train.take(rows), val, one_of=self.saving.one_of, seed=trial.seed)
        self.saving.measured(part, trial, classifier.probabilities(test.x))
        if self.saving.saves_head(part, trial):
            on_val = (classifier.probabilities(val.x), val.y) if val else None
            self.saving.head(part, trial, on_val, classifiers.linear_arrays(classifier))
        LOG.info("%s, %s: done", self.modality, trial)
