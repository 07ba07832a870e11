"""Classification of findings: a linear probe on frozen features, or full fine-tuning, with few labels or all."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.evaluation import draws, encoder, fit, opened, results
from unimedi_jax.inference import features
from unimedi_jax.input import records, supervised
from unimedi_jax.metrics import classification, linear_probe
from unimedi_jax.typing import Array, PyTree

LOG = logging.getLogger(__name__)
METRICS = ("auroc/macro", "auprc/macro", "accuracy/macro")
TASKS = {"linear": "linear probe", "full": "full fine-tuning"}


@dataclasses.dataclass(frozen=True)
class Task:
    """One set and modality, and what is done with it."""

    run: opened.Opened
    found: records.RecordSet
    modality: str
    names: list[str]
    ct_slices: bool
    rows: int  # a device, when embedding
    resamples: int

    def table(self, probabilities: np.ndarray, targets: np.ndarray, one_of: bool, **place: Any) -> list[results.Result]:
        """AUROC, AUPRC and accuracy of test probabilities, as rows."""
        scalars = classification.measure(probabilities, targets, self.names, one_of=one_of, resamples=self.resamples)
        return results.of(scalars, data=self.found.name, modality=self.modality, cases=len(targets), **place)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the classifiers of `configs/probe.py`, writes `results.csv` into `workdir`, prints a table."""
    if config.tune not in TASKS:
        raise UserError(f"config.tune is one of {', '.join(TASKS)}, not {config.tune!r}")
    trained = opened.open_run(config.checkpoint, network=config.network)
    rows = evaluate(
        trained,
        data_dir=config.data_dir,
        data=config.data,
        modality=config.modality,
        tune=config.tune,
        encoders=opened.encoders(config.untrained),
        shares=config.shares,
        seeds=config.seeds,
        ct_slices=config.ct_slices,
        rows=config.rows,
        resamples=config.resamples,
        recipe=dict(config.full),
    )
    results.publish(rows, METRICS, workdir)


def evaluate(
    trained: opened.Opened,
    *,
    data_dir: str | pathlib.Path,
    data: str,
    modality: str = "",
    tune: str = "linear",
    encoders: Sequence[str] = opened.ENCODERS,
    shares: Sequence[float] = (0.01, 0.1, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    ct_slices: bool = False,
    rows: int = 32,
    resamples: int = 1000,
    recipe: dict[str, Any] | None = None,
) -> list[results.Result]:
    """All rows of a set: each modality it has, encoder, share of the training patients and seed.

    Raises:
        UserError: the set has no labels, or no training or test records.
    """
    found = records.open_set(data_dir, data)
    names = found.contract["labels"]
    if not names:
        raise UserError(f"the set {data} in {found.folder} has no labels: there is nothing to classify")
    kinds = opened.modalities(found, modality)
    trained.check(found, kinds)
    table = []
    for kind in kinds:
        task = Task(trained, found, kind, names, ct_slices, rows, resamples)
        for name in encoders:
            if tune == "linear":
                table += _linear(task, name, shares, seeds)
            else:
                table += _full(task, name, shares, seeds, **(recipe or {}))
    return table


def _linear(task: Task, name: str, shares: Sequence[float], seeds: Sequence[int]) -> list[results.Result]:
    """Every record through the network once; all fractions and seeds are fitted on those features."""
    embedder = task.run.embedder(rows=task.rows, ct_slices=task.ct_slices)
    sampler = task.run.sampler(task.modality, keep=("report", "labels"))
    parts = {
        split: features.embed(embedder, task.run.variables(name), task.found, sampler, split, limit=0)
        for split in ("train", "val", "test")
        if task.found.size(task.modality, split)
    }
    train, test, val = parts["train"], parts["test"], parts.get("val")
    one_of = classification.exclusive(train.labels)
    table = []
    for share in shares:
        for seed in seeds if share < 1 else seeds[:1]:  # the optimum on all labels has no chance in it
            rows = draws.stratified(train.labels, share, seed=seed)
            probabilities = linear_probe.predict(
                train.cls[rows],
                train.labels[rows],
                test.cls,
                val_x=val and val.cls,
                val_y=val and val.labels,
                one_of=one_of,
                seed=seed,
            )
            table += task.table(
                probabilities, test.labels, one_of, task=TASKS["linear"], encoder=name, share=share, seed=seed
            )
            LOG.info("%s, %s encoder, %.0f%% of labels, seed %d: done", task.modality, name, 100 * share, seed)
    return table


def _full(
    task: Task,
    name: str,
    shares: Sequence[float],
    seeds: Sequence[int],
    *,
    batch: int,
    epochs: int,
    patience: int,
    lr: float,
    encoder_lr: float,
    weight_decay: float,
) -> list[results.Result]:
    """The whole network is trained, from the encoder's weights and a linear head of zeros."""
    batch = fit.check_batch(batch, task.run.mesh)
    fields = (*records.TRAINED_ON[task.modality], "labels")
    sources = {
        split: task.found.source(task.modality, split, fields)
        for split in ("train", "val", "test")
        if task.found.size(task.modality, split)
    }
    sampler = _Labelled(task.run.sampler(task.modality, keep=("labels",)))
    labels = {split: _labels(task.found, task.modality, split) for split in sources}
    one_of = classification.exclusive(labels["train"])
    logits, losses = _network(task, one_of), _losses(one_of)

    def loss(params: PyTree, fixed: PyTree, stats: PyTree, rows: PyTree, key: Array) -> tuple[Array, PyTree]:
        return losses(logits(params, rows["tokens"]), rows["labels"]).mean(), stats

    predict = jax.jit(logits)

    def over(split: str, params: PyTree) -> np.ndarray:
        found = []
        for rows, real in supervised.evaluation(sources[split], sampler, batch, range(len(sources[split]))):
            placed = sharding.put_batch(rows["tokens"], task.run.mesh)
            found.append(np.asarray(predict(params, placed))[:real])
        return np.concatenate(found)

    def score(params: PyTree, stats: PyTree) -> float:
        return -float(jnp.mean(losses(over("val", params), labels["val"])))  # MGCA stops by the validation loss

    table = []
    for share in shares:
        for seed in seeds:
            rows = draws.stratified(labels["train"], share, seed=seed)
            width = task.run.model.vision.width
            head = {"weights": jnp.zeros((width, len(task.names))), "bias": jnp.zeros(len(task.names))}
            start = {"encoder": {"vision": task.run.variables(name)["params"]["vision"]}, "head": head}
            fitted = fit.fit(
                start,
                {},
                {},
                loss,
                supervised.training(sources["train"], sampler, rows, batch, seed=seed),
                score if "val" in sources else None,
                mesh=task.run.mesh,
                epochs=epochs,
                steps=max(1, len(rows) // batch),
                patience=patience,
                lr=lr,
                encoder_lr=encoder_lr,
                weight_decay=weight_decay,
                seed=seed,
                name=f"{task.modality}, {name} encoder, {share:.0%} of labels, seed {seed}",
            )
            found = over("test", fitted.params)
            probabilities = jax.nn.softmax(found) if one_of else jax.nn.sigmoid(found)
            table += task.table(
                np.asarray(probabilities),
                labels["test"],
                one_of,
                task=TASKS["full"],
                encoder=name,
                share=share,
                seed=seed,
            )
    return table


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """Tokens and labels of a record, without its report."""

    sampler: Any

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        sample = self.sampler(record, rng)
        return {"tokens": sample["tokens"], "labels": sample["labels"]}


def _labels(found: records.RecordSet, modality: str, split: str) -> np.ndarray:
    return np.stack([record["labels"] for record in found.source(modality, split, ("labels",))])


def _network(task: Task, one_of: bool):
    def logits(params: PyTree, tokens: Array) -> Array:
        cls = encoder.cls(task.run.model, params["encoder"], tokens, task.modality, ct_slices=task.ct_slices)
        return cls @ params["head"]["weights"] + params["head"]["bias"][None]

    return logits


def _losses(one_of: bool):
    """Loss of every case: cross-entropy over exclusive classes, else the mean over its known labels."""

    def losses(logits: Array, labels: Array) -> Array:
        known = ~jnp.isnan(labels)
        targets = jnp.nan_to_num(labels)
        if one_of:
            return optax.softmax_cross_entropy(logits, targets) * known.all(axis=1)
        each = optax.sigmoid_binary_cross_entropy(logits, targets) * known
        return each.sum(axis=1) / jnp.maximum(known.sum(axis=1), 1)

    return losses
