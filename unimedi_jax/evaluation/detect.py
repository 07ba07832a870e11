"""Detection of lesions on films: YOLOv3's head on a frozen or a fine-tuned encoder."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches, sharding
from unimedi_jax.evaluation import draws, encoder, fit, opened, results, yolo
from unimedi_jax.input import boxes, records, supervised
from unimedi_jax.metrics import detection
from unimedi_jax.models import detector
from unimedi_jax.typing import Array, PyTree

METRICS = ("map", "map_coco", "ap50", "map_mgca")
TASKS = {"frozen": "detection, frozen encoder", "full": "detection, fine-tuned"}
FIELDS = ("image", "boxes")


@dataclasses.dataclass(frozen=True)
class Task:
    """One set, the detector for it, and what of its answers counts."""

    run: opened.Opened
    found: records.RecordSet
    detector: detector.Detector
    most: int
    limit: int
    lowest: float
    overlap: float

    @property
    def sampler(self) -> boxes.ToBoxes:
        """Records to tokens and boxes."""
        return boxes.ToBoxes(self.run.size("xray"), self.run.patch("xray"), self.most)

    def rows(self, split: str) -> list[int]:
        """Films of a split, at most `limit`."""
        count = self.found.size("xray", split)
        return list(range(min(count, self.limit) if self.limit else count))

    def answers(self, params: PyTree, fixed: PyTree, stats: PyTree, tokens: Array, train: bool) -> tuple[Any, PyTree]:
        """Raw answers of the three scales, and BatchNorm's new statistics."""
        weights = fixed["encoder"] if "encoder" in fixed else params["encoder"]
        seen = encoder.states(self.run.model, weights, tokens, "xray")
        variables = {"params": params["decoder"], **stats}
        if not train:
            return self.detector.apply(variables, seen.patches), stats
        return self.detector.apply(variables, seen.patches, train=True, mutable=["batch_stats"])


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains and tests the detectors of `configs/detect.py`, writes `results.csv` into `workdir`, prints a table."""
    trained = opened.open_run(config.checkpoint, network=config.network)
    rows = evaluate(
        trained,
        data_dir=config.data_dir,
        data=config.data,
        tunes=tuple(filter(None, config.tune.split(","))),
        encoders=opened.encoders(config.untrained),
        shares=config.shares,
        seeds=config.seeds,
        limit=config.limit,
        most=config.most,
        widths=tuple(config.widths),
        lowest=config.lowest,
        confidence=config.confidence,
        overlap=config.overlap,
        resamples=config.resamples,
        recipe=dict(config.recipe),
    )
    results.publish(rows, METRICS, workdir)


def evaluate(
    trained: opened.Opened,
    *,
    data_dir: str | pathlib.Path,
    data: str,
    tunes: Sequence[str],
    encoders: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    limit: int,
    most: int,
    widths: tuple[int, int, int],
    lowest: float,
    confidence: float,
    overlap: float,
    resamples: int,
    recipe: Mapping[str, Any],
) -> list[results.Result]:
    """All rows of a set's films: each way of tuning, encoder, share and seed.

    Raises:
        UserError: the set has no boxes, or no training or test films.
    """
    if not tunes or set(tunes) - set(TASKS):
        raise UserError(f"config.tune is one or more of {', '.join(TASKS)}, not {','.join(tunes)!r}")
    found = records.open_set(data_dir, data)
    if "boxes" not in found.contract["truth"]:
        raise UserError(f"the set {data} in {found.folder} has no boxes: there is nothing to detect")
    trained.check(found, opened.modalities(found, "xray"))
    grid = patches.grid(trained.size("xray"), trained.patch("xray"))
    task = Task(trained, found, detector.Detector(grid, widths), most, limit, lowest, overlap)
    table = []
    for tune in tunes:
        for name in encoders:
            for share in shares:
                for seed in seeds:
                    cases = _trained_and_tested(task, tune, name, share, seed, recipe)
                    scalars = detection.measure(cases, confidence=confidence, resamples=resamples)
                    table += results.of(
                        scalars,
                        task=TASKS[tune],
                        data=data,
                        modality="xray",
                        encoder=name,
                        share=share,
                        seed=seed,
                        cases=len(cases),
                    )
    return table


def _trained_and_tested(
    task: Task, tune: str, name: str, share: float, seed: int, recipe: Mapping[str, Any]
) -> list[detection.Case]:
    recipe = dict(recipe)
    batch = fit.check_batch(recipe.pop("batch"), task.run.mesh)
    params, fixed, stats = {}, {}, {}
    (fixed if tune == "frozen" else params)["encoder"] = {"vision": task.run.variables(name)["params"]["vision"]}
    tokens = jnp.zeros((1, int(np.prod(task.detector.grid)), task.run.model.vision.width))
    start = jax.jit(task.detector.init)(jax.random.key(seed), tokens)
    params["decoder"], stats = start["params"], {"batch_stats": start["batch_stats"]}

    def loss(params: PyTree, fixed: PyTree, stats: PyTree, rows: PyTree, key: Array) -> tuple[Array, PyTree]:
        answers, stats = task.answers(params, fixed, stats, rows["tokens"], True)
        return yolo.loss(answers, rows["boxes"], rows["real"], task.detector.grid), stats

    @jax.jit
    def decoded(params: PyTree, fixed: PyTree, stats: PyTree, tokens: Array) -> tuple[Array, Array]:
        found = detector.decode(task.answers(params, fixed, stats, tokens, False)[0], task.detector.grid)
        return found.place, jax.nn.sigmoid(found.objectness) * jax.nn.sigmoid(found.finding)

    def tested(split: str, params: PyTree, stats: PyTree) -> list[detection.Case]:
        source, cases = task.found.source("xray", split, FIELDS), []
        for part, real in supervised.evaluation(source, task.sampler, batch, task.rows(split)):
            places, scores = decoded(params, fixed, stats, sharding.put_batch(part["tokens"], task.run.mesh))
            for place, score in zip(np.asarray(places)[:real], np.asarray(scores)[:real], strict=True):
                cases.append(_case(task, source[len(cases)], place, score))
        return cases

    def score(params: PyTree, stats: PyTree) -> float:
        return detection.measure(tested("val", params, stats))["map"]

    films = task.found.source("xray", "train", FIELDS)
    rows = task.rows("train")
    with_boxes = np.array([[float(len(boxes.truth(films[row])) > 0)] for row in rows])
    rows = [rows[i] for i in draws.stratified(with_boxes, share, seed=seed)]
    fitted = fit.fit(
        params,
        fixed,
        stats,
        loss,
        supervised.training(films, task.sampler, rows, batch, seed=seed),
        score if task.rows("val") else None,
        mesh=task.run.mesh,
        steps=max(1, len(rows) // batch),
        seed=seed,
        name=f"{tune}, {name} encoder, {share:.0%} of films, seed {seed}",
        **recipe,
    )
    return tested("test", fitted.params, fitted.stats)


def _case(task: Task, record: dict[str, Any], place: np.ndarray, score: np.ndarray) -> detection.Case:
    """The answers that count, as boxes in the record's pixels, beside its truth."""
    # More than COCO's hundred never count, and suppression compares every pair.
    kept = np.argsort(-score, kind="stable")[: 4 * detection.MOST]
    kept = kept[score[kept] >= task.lowest]
    shape = np.array(record["image"].shape, np.float32)
    centre, half = place[kept, :2] * shape, place[kept, 2:] * shape / 2
    found = np.concatenate([np.clip(centre - half, 0, shape), np.clip(centre + half, 0, shape)], axis=1)
    return detection.Case(*detection.suppress(found, score[kept], above=task.overlap), boxes.truth(record))
