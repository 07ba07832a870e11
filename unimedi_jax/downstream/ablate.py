"""Ablations of pre-training: presets on the same data with the same steps and seeds, one table, maps side by side."""

import copy
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from unimedi_jax import writers
from unimedi_jax.downstream import opened
from unimedi_jax.errors import UserError
from unimedi_jax.evals import features, gap, results, suite
from unimedi_jax.input import records
from unimedi_jax.report import figures, page
from unimedi_jax.report.content import Cell, PageContent, Row, Table
from unimedi_jax.train import loop

LOG = logging.getLogger(__name__)
FULL, ONE, PAIR, TWO = "unimedi", "one_encoder", ("xray_only", "ct_only"), "two_encoders"
METRICS = {
    "xray/zeroshot/macro": "X-ray zero-shot AUC",
    "ct/zeroshot/macro": "CT zero-shot AUC",
    "xray/probe/macro": "X-ray probe AUC",
    "ct/probe/macro": "CT probe AUC",
    "xray/retrieval/i2t_r5": "X-ray R@5",
    "ct/retrieval/i2t_r5": "CT R@5",
    "ct/slices/any/hit_rate": "slice hits",
    "gap/xray_ct/distance": "gap, centroids",
    "gap/xray_ct/accuracy": "gap, told apart",
    "gap/images/separation": "class separation",
}
MAPPED = 400  # points of a modality on a map


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains what is not trained yet, then writes `results.csv` and `index.html` into `workdir`.

    Each run has its own folder, `<preset>-<seed>`, and goes on where it stopped.
    """
    names = [name for name in config.presets.split(",") if name]
    if not names or set(names) - {FULL, *config.changes}:
        raise UserError(f"config.presets is a list of {', '.join([FULL, *config.changes])}, not {config.presets!r}")
    folders = {}
    for seed in config.seeds:
        for name in names:
            folders[name, seed] = workdir / f"{name}-{seed}"
            settings = copy.deepcopy(config.base)
            settings.update(config.changes.get(name, {}))
            settings.update(seed=seed, data=config.data, data_dir=config.data_dir)
            LOG.info("preset %s, seed %d", name, seed)
            loop.run(settings, folders[name, seed])
    rows, maps = [], {}
    for (name, seed), folder in folders.items():
        rows += _rows(_final(folder), name, seed, config.data)
    for seed in config.seeds:
        models = {TWO: PAIR, ONE: (ONE, ONE), FULL: (FULL, FULL)}
        for title, (of_xray, of_ct) in models.items():
            if (of_xray, seed) not in folders or (of_ct, seed) not in folders:
                continue
            if title == TWO or seed == config.seeds[0]:
                runs = {"xray": folders[of_xray, seed], "ct": folders[of_ct, seed]}
                parts = _embedded(runs, config.data_dir, config.data, config.base.evals.rows)
                if seed == config.seeds[0]:
                    maps[title] = parts
                if title == TWO:
                    rows += _rows(_joint(parts), TWO, seed, config.data)
    results.write_csv(workdir / "results.csv", rows)
    content = _page(rows, maps, workdir.name, json.loads(config.to_json_best_effort()))
    path = page.write(workdir / "index.html", content, show_reports=True)
    print(results.text(rows, tuple(METRICS)))
    print(f"page: {path}\nall numbers: {workdir / 'results.csv'}")


def _final(folder: pathlib.Path) -> dict[str, Any]:
    """The test numbers of a finished run."""
    for line in reversed(writers.read(folder)):
        found = {key.removeprefix("test/"): value for key, value in line.items() if key.startswith("test/")}
        if found:
            return found
    raise UserError(f"{folder} holds no finished run: remove it, or run the same command again")


def _rows(found: Mapping[str, Any], name: str, seed: int, data: str) -> list[results.Result]:
    """The numbers of a run; an encoder of one modality is judged on that one alone."""
    unseen = {"xray_only": ("ct/", "gap/"), "ct_only": ("xray/", "gap/")}.get(name, ())
    return [
        results.Result("ablation", data, "", name, key, float(found[key]), seed=seed)
        for key in METRICS
        if found.get(key) is not None and not key.startswith(unseen)
    ]


def _embedded(runs: Mapping[str, pathlib.Path], data_dir: str, data: str, rows: int) -> dict[str, features.Split]:
    """The test patients of each modality through the encoder that stands for it."""
    parts = {}
    for modality, folder in runs.items():
        trained = opened.open_run(folder)
        found = records.open_set(data_dir, data)
        trained.check(found, (modality,))
        embedder = trained.embedder(rows=rows, ct_slices=bool(trained.model.slices))
        sampler = trained.sampler(modality, keep=("report", "labels"))
        parts[modality] = features.embed(embedder, trained.trained, found, sampler, "test", limit=0)
    return parts


def _joint(parts: Mapping[str, features.Split]) -> dict[str, float]:
    """Gap and separation of two encoders' embeddings thrown together."""
    apart = gap.modality_gap(parts["xray"].z, parts["ct"].z)
    z = np.concatenate([part.z for part in parts.values()])
    finding = np.concatenate([suite.single_finding(part.labels) for part in parts.values()])
    return {
        "gap/xray_ct/distance": apart.distance,
        "gap/xray_ct/accuracy": apart.accuracy,
        "gap/images/separation": gap.class_separation(z, finding),
    }


def _page(
    rows: list[results.Result], maps: Mapping[str, Mapping[str, features.Split]], name: str, config: dict[str, Any]
) -> PageContent:
    merged = {(row.encoder, row.metric): row.value for row in results.average(rows)}
    scalars = {f"{encoder}/{metric}": value for (encoder, metric), value in merged.items()}
    seeds = len({row.seed for row in rows})
    presets = dict.fromkeys(row.encoder for row in rows)
    lines = [Row(preset, [Cell(f"{preset}/{metric}") for metric in METRICS]) for preset in presets]
    note = f"Test patients, mean over {seeds} seeds; every seed is in results.csv. Presets are in configs/pretrain.py."
    table = Table("Ablations", ("", *METRICS.values()), lines, note)
    pictures = [(title, _map(parts, title)) for title, parts in maps.items()]
    return PageContent(
        name=name, config=config, contract={}, metrics=[{"step": 0, **scalars}], tables=[table],
        kind="ablations", pictures=pictures,
    )  # fmt: skip


def _map(parts: Mapping[str, features.Split], title: str) -> bytes:
    kept = {modality: figures.tsne_rows(len(part.z), limit=MAPPED) for modality, part in parts.items()}
    points = figures.tsne(np.concatenate([parts[modality].z[rows] for modality, rows in kept.items()]))
    modality = [name for name, rows in kept.items() for _ in rows]
    return figures.embedding_map(points, modality, modality, title)
