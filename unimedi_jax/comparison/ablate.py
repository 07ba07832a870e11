"""Ablations of pre-training: presets on the same data with the same steps and seeds, one table, maps side by side."""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from unimedi_jax.comparison import runs, runs_page
from unimedi_jax.evaluation import evaluator, results
from unimedi_jax.inference import features, pretrained
from unimedi_jax.input import places
from unimedi_jax.input.places import Place
from unimedi_jax.report import figures
from unimedi_jax.train import dataset

TASK = "ablation"
ONE, PAIR, TWO = "one_encoder", ("xray_only", "ct_only"), "two_encoders"
# The encoders of X-rays and of CTs of each map.
MAPS = {TWO: PAIR, ONE: (ONE, ONE), runs.UNIMEDI: (runs.UNIMEDI, runs.UNIMEDI)}
MAPPED = 400  # points of a modality of a set on a map
Parts = Sequence[tuple[Place, features.EmbeddedSplit]]


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains what is not trained yet, then writes `results.csv` and `index.html` into `workdir`."""
    planned = runs.planned(config, workdir)
    runs.check_sets(config)
    rows = runs.train(planned, TASK, workdir)
    pictures = []
    trained = {(row.encoder, row.seed) for row in rows}
    folders = {(one.name, one.seed): one.folder for one in planned if (one.name, one.seed) in trained}
    for seed in dict.fromkeys(config.seeds):
        for title, pair in MAPS.items():
            encoders = [folders.get((name, seed)) for name in pair]
            mapped = seed == config.seeds[0]
            if None in encoders or not (mapped or title == TWO):
                continue
            parts = _embedded(dict(zip(("xray", "ct"), encoders, strict=True)), config)
            if mapped and (picture := _map(parts, title)):
                pictures.append((title, picture))
            if title == TWO:
                rows += results.of(_joint(parts), task=TASK, data=config.data, modality="", encoder=TWO, seed=seed)
                results.write_csv(workdir / results.FILE, rows)
    runs_page.publish(rows, workdir, config, title="Ablations", pictures=pictures)


def _embedded(of_modality: Mapping[str, pathlib.Path], config: ml_collections.ConfigDict) -> Parts:
    """The test patients of every set and modality through the encoder of the modality."""
    sets = [record_set for record_set, _ in dataset.open_sets(config.data, config.data_dir)]
    networks = {modality: pretrained.load(folder) for modality, folder in of_modality.items()}
    embedders = {name: trained.embedder(rows=config.base.evals.rows) for name, trained in networks.items()}
    parts = []
    for place in places.of_sets(sets):
        if place.modality not in networks or not place.dataset.size(place.modality, "test"):
            continue
        trained, embedder = networks[place.modality], embedders[place.modality]
        trained.check(place.dataset, (place.modality,))
        sampler = trained.sampler(place.modality, keep=("report", "labels"))
        parts.append((place, features.embed(embedder, trained.variables, place.dataset, sampler, "test")))
    return parts


def _joint(parts: Parts) -> dict[str, float]:
    """Gap and separation of two encoders' embeddings taken together."""
    by_name = {place.name: part for place, part in parts}
    return {f"gap/{name}": value for name, value in evaluator.image_gaps(by_name).items()}


def _map(parts: Parts, title: str) -> bytes | None:
    """A picture of test patients, None where there are too few of them."""
    shown = [(place.title, part.z[figures.tsne_rows(len(part.z), limit=MAPPED)]) for place, part in parts]
    names = [name for name, z in shown for _ in z]
    if len(names) < figures.FEWEST_POINTS:
        return None
    return figures.embedding_map(figures.tsne(np.concatenate([z for _, z in shown])), names, names, title)
