"""Classification of findings: a linear probe on frozen features, or full fine-tuning, with few labels or all."""

import dataclasses
import logging
import pathlib

import ml_collections

from data import progress
from data.errors import UserError
from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation import classifiers, downstream, draws, fit, heads, mgca_probe, results, trials
from unimedi_jax.evaluation.downstream import Outputs
from unimedi_jax.evaluation.fine_tuning import SPLITS, FineTuning
from unimedi_jax.evaluation.probe_outputs import TASKS, ProbeOutputs, task_name
from unimedi_jax.inference import features
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import classification, linear_probe

LOG = logging.getLogger(__name__)
METRICS = ("auroc/macro", "auprc/macro", "accuracy/macro")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the classifiers of `configs/probe.py`."""
    downstream.run(config, workdir, ProbeConfig, evaluate, METRICS)


def evaluate(
    trained: Pretrained, dataset: RecordSet, config: ProbeConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """All rows of a set: each modality it has, encoder, share of the training patients and seed.

    `outputs` gets the probabilities of the test cases and the heads of `trials.main`.

    Raises:
        UserError: a setting is wrong, the set has no labels, or no test or too few training records.
    """
    if config.tune not in TASKS:
        raise UserError(f"config.tune is one of {', '.join(TASKS)}, not {config.tune!r}")
    if not dataset.contract["labels"]:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has no labels: there is nothing to classify")
    if config.protocol != "ours" and config.tune != "linear":
        raise UserError(f"config.protocol={config.protocol} is that of a linear classifier: set config.tune=linear")
    asked = config.modality if config.protocol == "ours" else "xray"
    modalities = trials.modalities(trained, dataset, asked)
    trained.check(dataset, modalities)
    measure = {"ours": _linear if config.tune == "linear" else _full, "mgca": _published}[config.protocol]
    rows = [row for modality in modalities for row in measure(trained, dataset, modality, config, outputs)]
    if not rows:
        raise UserError(f"the set {dataset.name} in {dataset.folder} has {trials.TOO_FEW}")
    return rows


def _linear(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs | None
) -> list[results.Result]:
    """Every record through the network once; all shares and seeds are fitted on those features."""
    # With all labels, nothing is random.
    chosen = [
        trial
        for trial in trials.trials(config, dataset.size(modality, "train"))
        if trial.share < 1 or trial.seed == config.seeds[0]
    ]
    embedder = trained.embedder(rows=config.rows, ct_slices=config.ct_slices)
    sampler = trained.sampler(modality, keep=("report", "labels"))
    names, table, slices = dataset.contract["labels"], [], _slices(trained, modality, config)
    shared = dict(task=TASKS["linear"], data=dataset.name, modality=modality, ct_slices=slices)
    for name in dict.fromkeys(trial.encoder for trial in chosen):
        variables = trained.encoder(name)
        parts = {
            split: features.embed(embedder, variables, dataset, sampler, split, images_alone=True).labelled
            for split in SPLITS
            if dataset.size(modality, split)
        }
        train, test, val = parts["train"], parts["test"], parts.get("val")
        one_of = classification.exclusive(train.y)
        saving = ProbeOutputs(outputs, trained, dataset, modality, config, test.y, one_of)
        of_encoder = [trial for trial in chosen if trial.encoder == name]
        with progress.shown(len(of_encoder), f"linear probes, {modality}, {name} encoder") as tick:
            for trial in of_encoder:
                rows = draws.stratified(train.y, trial.share, seed=trial.seed)
                few = linear_probe.Labelled(train.x[rows], train.y[rows])
                classifier = linear_probe.fit(few, val, one_of=one_of, seed=trial.seed)
                scores = classifier.probabilities(test.x)
                scalars = classification.measure(scores, test.y, names, one_of=one_of, resamples=config.resamples)
                table += results.of(scalars, **shared, cases=len(test.y), **trial._asdict())
                saving.cases(trial, scores)
                if saving.saves_head(trial):
                    on_val = (classifier.probabilities(val.x), val.y) if val else None
                    saving.head(trial, on_val, classifiers.linear_arrays(classifier))
                LOG.info("%s, %s: done", modality, trial)
                tick(1)
    return table


def _full(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs | None
) -> list[results.Result]:
    """The whole network is trained, from the encoder's weights and a linear head of zeros."""
    task, names, table = FineTuning(trained, dataset, modality, config), dataset.contract["labels"], []
    labels, settings = task.labels["test"], {"one_of": task.one_of, "resamples": config.resamples}
    slices = _slices(trained, modality, config)
    shared = dict(task=TASKS["full"], data=dataset.name, modality=modality, cases=len(labels), ct_slices=slices)
    saving = ProbeOutputs(outputs, trained, dataset, modality, config, labels, task.one_of)
    for trial in trials.trials(config, len(task.cases["train"])):
        network = fit.train(task, trial)
        scores = task.probabilities("test", network)
        scalars = classification.measure(scores, labels, names, **settings)
        table += results.of(scalars, **shared, **trial._asdict())
        saving.cases(trial, scores)
        if saving.saves_head(trial):
            on_val = (task.probabilities("val", network), task.labels["val"]) if task.cases["val"] else None
            saving.head(trial, on_val, heads.network_arrays(network))
    return table


def _published(
    trained: Pretrained, dataset: RecordSet, modality: str, config: ProbeConfig, outputs: Outputs | None
) -> list[results.Result]:
    """MGCA's linear classifier: every step with its own augmentation, one seed of its own."""
    config = dataclasses.replace(config, seeds=(draws.PUBLISHED_SEED,))
    task, names, table = mgca_probe.Linear(trained, dataset, modality, config), dataset.contract["labels"], []
    labels = task.labels["test"]
    shared = dict(task=task_name(config), data=dataset.name, modality=modality, cases=len(labels))
    saving = ProbeOutputs(outputs, trained, dataset, modality, config, labels, task.one_of)
    for trial in trials.trials(config, len(task.cases["train"])):
        network = fit.train(task, trial, mgca_probe.draw)
        scores = task.probabilities("test", network)
        scalars = classification.measure(scores, labels, names, one_of=task.one_of, resamples=config.resamples)
        table += results.of(scalars, **shared, **trial._asdict())
        saving.cases(trial, scores)
        if saving.saves_head(trial):
            on_val = (task.probabilities("val", network), task.labels["val"]) if task.cases["val"] else None
            saving.head(trial, on_val, mgca_probe.linear_arrays(network))
    return table


def _slices(trained: Pretrained, modality: str, config: ProbeConfig) -> bool | None:
    """Whether CTs go in with their chosen slices; None for X-rays."""
    return trained.use_slices(config.ct_slices) if modality == "ct" else None
