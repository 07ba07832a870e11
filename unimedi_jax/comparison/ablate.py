"""Ablations of pre-training: presets on the same data with the same steps and seeds, one table, maps side by side."""

import pathlib
from collections.abc import Mapping

import ml_collections
import numpy as np

from unimedi_jax.comparison import runs
from unimedi_jax.evaluation import evaluator, results
from unimedi_jax.inference import features, pretrained
from unimedi_jax.report import figures
from unimedi_jax.train import dataset

TASK = "ablation"
ONE, PAIR, TWO = "one_encoder", ("xray_only", "ct_only"), "two_encoders"
# The encoders of X-rays and of CTs of each map.
MAPS = {TWO: PAIR, ONE: (ONE, ONE), runs.UNIMEDI: (runs.UNIMEDI, runs.UNIMEDI)}
MAPPED = 400  # points of a modality on a map
Parts = Mapping[str, features.EmbeddedSplit]  # by modality


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains what is not trained yet, then writes `results.csv` and `index.html` into `workdir`."""
    planned = runs.planned(config, workdir)
    runs.train(planned)
    rows = [row for one in planned for row in runs.measured(one, TASK)]
    pictures = []
    folders = {(one.name, one.seed): one.folder for one in planned}
    for seed in dict.fromkeys(config.seeds):
        for title, pair in MAPS.items():
            encoders = [folders.get((name, seed)) for name in pair]
            mapped = seed == config.seeds[0]
            if None in encoders or not (mapped or title == TWO):
                continue
            parts = _embedded(dict(zip(("xray", "ct"), encoders, strict=True)), config)
            if mapped:
                pictures.append((title, _map(parts, title)))
            if title == TWO:
                rows += results.of(_joint(parts), task=TASK, data=config.data, modality="", encoder=TWO, seed=seed)
    runs.publish([*rows, *runs.costs(planned, TASK)], workdir, config, title="Ablations", pictures=pictures)


def _embedded(of_modality: Mapping[str, pathlib.Path], config: ml_collections.ConfigDict) -> Parts:
    """The test patients of each modality through its encoder."""
    record_set, _ = dataset.open_sets(config.data, config.data_dir)[0]
    parts = {}
    for modality, folder in of_modality.items():
        trained = pretrained.load(folder)
        trained.check(record_set, (modality,))
        embedder = trained.embedder(rows=config.base.evals.rows)
        sampler = trained.sampler(modality, keep=("report", "labels"))
        parts[modality] = features.embed(embedder, trained.variables, record_set, sampler, "test")
    return parts


def _joint(parts: Parts) -> dict[str, float]:
    """Gap and separation of two encoders' embeddings taken together."""
    return {f"gap/{name}": value for name, value in evaluator.image_gaps(parts).items()}


def _map(parts: Parts, title: str) -> bytes:
    shown = {modality: figures.tsne_rows(len(part.z), limit=MAPPED) for modality, part in parts.items()}
    points = figures.tsne(np.concatenate([parts[modality].z[rows] for modality, rows in shown.items()]))
    modality = [name for name, rows in shown.items() for _ in rows]
    return figures.embedding_map(points, modality, modality, title)
