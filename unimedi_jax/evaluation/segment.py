"""Segmentation of organs or lesions: SETR-PUP on films, UNETR on volumes, on a frozen or a fine-tuned encoder."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches, sharding
from unimedi_jax.evaluation import dense_losses, draws, encoder, fit, opened, results, sliding
from unimedi_jax.input import dense, records, supervised
from unimedi_jax.metrics import segmentation
from unimedi_jax.models import setr, unetr
from unimedi_jax.typing import Array, PyTree

METRICS = ("dice/mean", "hd95/mean", "nsd/mean")
TUNES = {"frozen": "frozen encoder", "full": "fine-tuned"}
QUARTERS = (0.25, 0.5, 0.75)  # of the depth: the hidden states UNETR taps, blocks 3, 6 and 9 of ViT-B


@dataclasses.dataclass(frozen=True)
class Task:
    """One set, modality and target, the decoder for them, and the annotated cases of every split."""

    run: opened.Opened
    found: records.RecordSet
    modality: str
    target: str
    names: list[str]
    decoder: Any  # setr.SetrPup or unetr.Unetr
    windows: bool
    cases: Mapping[str, list[int]]

    @property
    def sampler(self) -> dense.ToMask:
        """Records to tokens and masks."""
        return dense.ToMask(
            self.modality, self.target, self.run.size(self.modality), self.run.patch(self.modality), self.windows
        )

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        """The records of a split with what segmentation needs of them."""
        fields = ("image", "volume", "spacing_mm", dense.TARGETS[self.target])
        return self.found.source(self.modality, split, fields)

    def logits(self, params: PyTree, fixed: PyTree, stats: PyTree, tokens: Array, train: bool) -> tuple[Array, PyTree]:
        """Logits of every pixel or voxel of the network's space, and BatchNorm's new statistics."""
        weights = fixed["encoder"] if "encoder" in fixed else params["encoder"]
        variables = {"params": params["decoder"], **stats}
        if self.modality == "xray":
            seen = encoder.states(self.run.model, weights, tokens, "xray")
            found = self.decoder.apply(
                variables, seen.patches, train=train, mutable=["batch_stats"] if train else False
            )
            return found if train else (found, stats)
        seen = encoder.states(self.run.model, weights, tokens, "ct", hidden=True)
        depth = len(seen.hidden)
        taps = [seen.hidden[max(1, round(share * depth)) - 1] for share in QUARTERS]
        return self.decoder.apply(variables, encoder.voxels(self.run.model, tokens), taps, seen.patches), stats

    def start(self, seed: int) -> tuple[PyTree, PyTree]:
        """A fresh decoder: its parameters and BatchNorm's statistics."""
        cells = patches.grid(self.run.size(self.modality), self.run.patch(self.modality))
        tokens = jnp.zeros((1, int(np.prod(cells)), self.run.model.vision.width))
        inputs = (tokens,)
        if self.modality == "ct":
            inputs = (jnp.zeros((1, *self.run.size("ct"))), [tokens] * len(QUARTERS), tokens)
        variables = jax.jit(self.decoder.init)(jax.random.key(seed), *inputs)
        return variables["params"], {name: x for name, x in variables.items() if name != "params"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the decoders of `configs/segment.py`, writes `results.csv` into `workdir`, prints a table."""
    trained = opened.open_run(config.checkpoint, network=config.network)
    rows = evaluate(
        trained,
        data_dir=config.data_dir,
        data=config.data,
        modality=config.modality,
        target=config.target,
        tunes=tuple(filter(None, config.tune.split(","))),
        encoders=opened.encoders(config.untrained),
        shares=config.shares,
        seeds=config.seeds,
        limit=config.limit,
        windows=config.windows,
        tolerance=config.tolerance,
        resamples=config.resamples,
        setr_channels=tuple(config.setr_channels),
        unetr_features=config.unetr_features,
        recipes={"xray": dict(config.xray), "ct": dict(config.ct)},
    )
    results.publish(rows, METRICS, workdir)


def evaluate(
    trained: opened.Opened,
    *,
    data_dir: str | pathlib.Path,
    data: str,
    modality: str,
    target: str,
    tunes: Sequence[str],
    encoders: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    limit: int,
    windows: bool,
    tolerance: float,
    resamples: int,
    setr_channels: tuple[int, ...],
    unetr_features: int,
    recipes: Mapping[str, dict[str, Any]],
) -> list[results.Result]:
    """All rows of a set: each modality that has the target, encoder, way of tuning, share and seed."""
    if unknown := set(tunes) - set(TUNES):
        raise UserError(f"config.tune is one or more of {', '.join(TUNES)}, not {', '.join(sorted(unknown))}")
    if target not in dense.TARGETS:
        raise UserError(f"config.target is one of {', '.join(dense.TARGETS)}, not {target!r}")
    found = records.open_set(data_dir, data)
    if dense.TARGETS[target] not in found.contract["truth"]:
        raise UserError(
            f"the set {data} in {found.folder} has no {dense.TARGETS[target]}: choose another config.target"
        )
    names = organs(found.contract) if target == "organs" else [target.removesuffix("s").removesuffix("e")]
    table = []
    for kind in opened.modalities(found, modality):
        trained.check(found, (kind,))
        cases = {split: _annotated(found, kind, split, target, limit) for split in ("train", "val", "test")}
        if not cases["train"] or not cases["test"]:
            continue
        classes = len(names) + 1 if target == "organs" else 1
        grid = patches.grid(trained.size(kind), trained.patch(kind))
        try:
            decoder = (
                setr.SetrPup(classes, grid, trained.patch(kind), setr_channels)
                if kind == "xray"
                else unetr.Unetr(classes, grid, trained.patch(kind), unetr_features)
            )
            task = Task(trained, found, kind, target, names, decoder, windows and kind == "ct", cases)
            task.start(0)
        except ValueError as error:
            raise UserError(f"the {kind} decoder does not fit this checkpoint: {error}") from error
        for tune in tunes:
            for name in encoders:
                for share in shares:
                    for seed in seeds:
                        scalars = _trained_and_tested(
                            task, tune, name, share, seed, tolerance, resamples, recipes[kind]
                        )
                        table += results.of(
                            scalars,
                            task=task_name(target, tune),
                            data=data,
                            modality=kind,
                            encoder=name,
                            share=share,
                            seed=seed,
                            cases=len(cases["test"]),
                        )
    if not table:
        raise UserError(f"the set {data} in {found.folder} has no annotated training and test cases for {target}")
    return table


def task_name(target: str, tune: str) -> str:
    """How the rows of a target and a way of tuning are called."""
    return f"segmentation of {target}, {TUNES[tune]}"


def organs(contract: Mapping[str, Any]) -> list[str]:
    """Names of the classes of the organ mask, from the contract's "0 none, 1 right lung, 2 left lung, ..."."""
    text = contract["records"]["organ_mask"]
    numbered = {int(number): name for number, name in re.findall(r"(\d+) ([^,]+)", text)}
    return [numbered[number] for number in range(1, max(numbered) + 1)]


def _trained_and_tested(
    task: Task,
    tune: str,
    name: str,
    share: float,
    seed: int,
    tolerance: float,
    resamples: int,
    recipe: Mapping[str, Any],
) -> dict[str, float]:
    recipe = dict(recipe)
    batch = fit.check_batch(recipe.pop("batch"), task.run.mesh)
    weights = {"vision": task.run.variables(name)["params"]["vision"]}
    decoder, stats = task.start(seed)
    params, fixed = {"decoder": decoder}, {}
    (fixed if tune == "frozen" else params)["encoder"] = weights

    def loss(params: PyTree, fixed: PyTree, stats: PyTree, rows: PyTree, key: Array) -> tuple[Array, PyTree]:
        logits, stats = task.logits(params, fixed, stats, rows["tokens"], True)
        if logits.shape[-1] == 1:
            return dense_losses.binary(logits[..., 0], rows["mask"].astype(jnp.float32)), stats
        return dense_losses.exclusive(logits, rows["mask"]), stats

    predict = _predictor(task, batch)
    cases = task.cases["train"]
    rows = [cases[i] for i in draws.stratified(np.zeros((len(cases), 0)), share, seed=seed)]

    def score(params: PyTree, stats: PyTree) -> float:
        found = predict("val", params, fixed, stats)
        return float(np.mean([_dice_alone(truth, mask, len(task.names)) for truth, mask, _ in found]))

    fitted = fit.fit(
        params,
        fixed,
        stats,
        loss,
        supervised.training(task.source("train"), task.sampler, rows, batch, seed=seed),
        score if task.cases["val"] else None,
        mesh=task.run.mesh,
        steps=max(1, len(rows) // batch),
        seed=seed,
        name=f"{task.modality}, {tune}, {name} encoder, {share:.0%} of labels, seed {seed}",
        **recipe,
    )
    measured = [
        segmentation.case(truth, mask, len(task.names), spacing, tolerance=tolerance)
        for truth, mask, spacing in predict("test", fitted.params, fixed, fitted.stats)
    ]
    values, present = (np.stack(part) for part in zip(*measured, strict=True))
    return segmentation.summarise(values, present, task.names, resamples=resamples)


def _predictor(task: Task, batch: int) -> Callable[..., Any]:
    """`predict(split, params, fixed, stats)` yields truth, predicted classes and spacing on each record's own grid."""

    @functools.partial(jax.jit, static_argnames="shape")
    def classes(params: PyTree, fixed: PyTree, stats: PyTree, tokens: Array, shape: tuple[int, ...] | None) -> Array:
        logits, _ = task.logits(params, fixed, stats, tokens, False)
        if shape is None:  # a window of the record's own voxels
            return logits
        # The logits are brought up to the record's grid, so that no metric depends on the network's resolution.
        logits = jax.image.resize(logits, (len(logits), *shape, logits.shape[-1]), "linear")
        return _decide(logits)

    def predict(split: str, params: PyTree, fixed: PyTree, stats: PyTree) -> Any:
        source, rows = task.source(split), task.cases[split]
        mesh = task.run.mesh
        if task.windows:
            patch = task.run.patch("ct")

            def of_windows(part: np.ndarray) -> np.ndarray:
                placed = sharding.put_batch(patches.patchify(part, patch), mesh)
                return np.asarray(classes(params, fixed, stats, placed, None))

            for row in rows:
                record = source[row]
                logits = sliding.predict(record["volume"], task.run.size("ct"), of_windows, rows=batch)
                yield dense.truth(record, task.target), np.asarray(_decide(logits)), record["spacing_mm"]
            return
        first = 0
        for part, real in supervised.evaluation(source, task.sampler, batch, rows):
            picked = [source[row] for row in rows[first : first + real]]
            first += real
            shape = picked[0]["image" if task.modality == "xray" else "volume"].shape
            found = np.asarray(classes(params, fixed, stats, sharding.put_batch(part["tokens"], mesh), shape))
            for record, mask in zip(picked, found, strict=False):
                yield dense.truth(record, task.target), mask, record.get("spacing_mm", (1.0, 1.0))

    return predict


def _decide(logits: Array) -> Array:
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.uint8)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def _dice_alone(truth: np.ndarray, found: np.ndarray, classes: int) -> float:
    return float(np.mean([segmentation.dice(truth == c, found == c) for c in range(1, classes + 1)]))


def _annotated(found: records.RecordSet, modality: str, split: str, target: str, limit: int) -> list[int]:
    """Rows of a split whose target somebody has drawn, at most `limit` (0 = all)."""
    if not found.size(modality, split):
        return []
    if target == "boxes":
        rows = list(range(found.size(modality, split)))
    else:
        masks = found.source(modality, split, (dense.TARGETS[target],))
        rows = [i for i, record in enumerate(masks) if not (record[dense.TARGETS[target]] == dense.UNANNOTATED).all()]
    return rows[:limit] if limit else rows
