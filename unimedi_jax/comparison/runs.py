"""Several pre-training runs side by side: trained on the same data with the same steps and seeds, and their table."""

import copy
import itertools
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from data.errors import UserError
from unimedi_jax import hlo, writers
from unimedi_jax.config import presets
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import results
from unimedi_jax.input import pipeline
from unimedi_jax.report import page, tables
from unimedi_jax.report.content import Cell, PageContent, Row, Table
from unimedi_jax.train import dataset, loop
from unimedi_jax.train.job import build_job

LOG = logging.getLogger(__name__)
UNIMEDI = "unimedi"  # the preset that changes nothing
GFLOP, SECONDS = "cost/gflop", "cost/seconds"
# Metrics of a table with their columns and digits.
SHOWN = {
    "xray/zeroshot/macro": ("X-ray zero-shot AUC", 3),
    "ct/zeroshot/macro": ("CT zero-shot AUC", 3),
    "xray/probe/macro": ("X-ray probe AUC", 3),
    "ct/probe/macro": ("CT probe AUC", 3),
    "xray/supervised/macro": ("X-ray supervised AUC", 3),
    "ct/supervised/macro": ("CT supervised AUC", 3),
    "xray/retrieval/i2t_r5": ("X-ray R@5", 3),
    "ct/retrieval/i2t_r5": ("CT R@5", 3),
    "ct/slices/any/hit_rate": ("slice hit rate", 3),
    "ct/slices/any/layer_share": ("slice scores due to the layer", 3),
    "gap/xray_ct/distance": ("gap, centroids", 3),
    "gap/xray_ct/accuracy": ("modality classification accuracy", 3),
    "gap/xray_ct_cls/accuracy": ("the same on CLS", 3),
    "gap/images/separation": ("class separation", 3),
    GFLOP: ("GFLOP a step", 1),
    SECONDS: ("s a step", 2),
}
CEILINGS = ("xray/supervised/macro", "ct/supervised/macro")  # of networks that were trained on the labels


class Run(NamedTuple):
    """One preset of one seed."""

    name: str
    seed: int
    folder: pathlib.Path
    settings: ml_collections.ConfigDict

    @property
    def untrained(self) -> tuple[str, ...]:
        """Modalities that it is not trained on: an encoder is evaluated on what it was trained for."""
        return tuple(name for name in pipeline.MODALITIES if not self.settings.batch[name])


def planned(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Run]:
    """Every preset of `config.presets` with every seed, each in its own folder, `<preset>-<seed>`.

    Raises:
        UserError: a preset that does not exist, or two that cannot be joined.
    """
    known = [UNIMEDI, *config.changes]
    names = list(dict.fromkeys(name for name in config.presets.split(",") if name))
    if not names or not config.seeds or {part for name in names for part in name.split("+")} - set(known):
        raise UserError(
            f"config.presets is a list of {', '.join(known)}, for one seed or more, not {config.presets!r} "
            f"for {tuple(config.seeds)}"
        )
    pairs = itertools.product(dict.fromkeys(config.seeds), names)
    return [
        Run(name, seed, workdir / f"{name}-{seed}", settings_of(config, name, seed, config.data))
        for seed, name in pairs
    ]


def settings_of(config: ml_collections.ConfigDict, name: str, seed: int, data: str) -> ml_collections.ConfigDict:
    """What all share, `config.base`, with the changes of a preset, or of several joined by a plus.

    Raises:
        UserError: the presets do not fit each other.
    """
    settings = copy.deepcopy(config.base)
    try:
        for part in name.split("+"):
            presets.apply(settings, config.changes.get(part, {}))
        settings.update(seed=seed, data=data, data_dir=config.data_dir)
    except (KeyError, TypeError) as error:
        raise UserError(f"config.presets: {name} does not fit config.base: {str(error).splitlines()[0]}") from error
    return settings


def train(runs: Sequence[Run]) -> None:
    """Trains what is not trained yet; an interrupted run resumes.

    Raises:
        UserError: the set has no test records, which the table is made of.
    """
    settings = runs[0].settings
    measured_on, _ = dataset.open_sets(settings.data, settings.data_dir)[0]
    if not any(measured_on.size(modality, "test") for modality in pipeline.MODALITIES):
        raise UserError(f"the set {measured_on.name} has no test records: there is nothing to compare the presets on")
    for run in runs:
        LOG.info("preset %s, seed %d", run.name, run.seed)
        loop.run(run.settings, run.folder)


def measured(run: Run, task: str) -> list[results.Result]:
    """The test numbers of a finished run, without those of modalities that it was not trained on.

    Raises:
        UserError: there are none.
    """
    final = tables.final(writers.read(run.folder))
    if final is None:
        raise UserError(f"{run.folder} holds no finished run: remove it, or run the same command again")
    hidden = tuple(f"test/{place}/" for place in (*run.untrained, *(("gap",) if run.untrained else ())))
    scalars = {
        key.removeprefix("test/"): value
        for key, value in final.items()
        if key.startswith("test/") and value is not None and not key.startswith(hidden) and key != "test/cases"
    }
    return _rows(run, task, scalars)


def costs(runs: Sequence[Run], task: str) -> list[results.Result]:
    """Seconds a step of every run, and for each preset the arithmetic of its compiled step of the whole batch."""
    rows, first = [], {run.name: run for run in reversed(runs)}
    for run in runs:
        scalars = {SECONDS: _seconds(run)} | ({GFLOP: gflop(run)} if run is first[run.name] else {})
        rows += _rows(run, task, {key: value for key, value in scalars.items() if not math.isnan(value)})
    return rows


def _rows(run: Run, task: str, scalars: dict[str, float]) -> list[results.Result]:
    return results.of(scalars, task=task, data=run.settings.data, modality="", encoder=run.name, seed=run.seed)


def gflop(run: Run) -> float:
    """10^9 floating-point operations of matrix products, as training compiles the step."""
    job = build_job(typed(PretrainConfig, run.settings), run.folder)
    rows = {name: count // job.mesh.size for name, count in job.batch.items()}
    compiled = job.lower(rows, run.settings.input.report_length).compile()
    return hlo.flops(hlo.parse(compiled.as_text())) * job.mesh.size / 1e9


def _seconds(run: Run) -> float:
    """Median over what the run logged; not-a-number where it took no step beside the first, which compiles."""
    rates = [line["speed/samples_per_s"] for line in writers.read(run.folder) if line.get("speed/samples_per_s")]
    samples = sum(json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["global_batch"].values())
    return float(np.median([samples / rate for rate in rates])) if rates else float("nan")


def publish(
    rows: Sequence[results.Result],
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    title: str,
    note: str = "",
    tables_beside: Sequence[Table] = (),
    scalars_beside: Mapping[str, float] | None = None,
    pictures: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Writes `results.csv` with all numbers of every seed, and `index.html` and the terminal table with their means."""
    results.write_csv(workdir / "results.csv", rows)
    merged = [row for row in results.average(rows, spread=True) if row.metric in SHOWN]
    scalars: dict[str, Any] = {"step": 0} | results.scalars(merged) | dict(scalars_beside or {})
    table = _table(merged, title, " ".join(filter(None, (_note(rows), note))))
    settings = json.loads(config.to_json_best_effort())
    shown = [table, *tables_beside]
    content = PageContent(workdir.name, settings, {}, [scalars], shown, kind=title.lower(), pictures=pictures)
    path = page.write(workdir / "index.html", content, show_reports=True)
    print(tables.text(table, [scalars], intervals=True))
    print(f"page: {path}\nall numbers: {workdir / 'results.csv'}")


def _table(merged: Sequence[results.Result], title: str, note: str) -> Table:
    """A line for each preset, in the order of the rows; columns of CEILINGS only where one of them is a ceiling."""
    place = {row.encoder: f"{row.encoder}/{row.key.removesuffix(row.metric)}" for row in merged}
    measured = {row.metric for row in merged}
    shown = {metric: form for metric, form in SHOWN.items() if metric in measured or metric not in CEILINGS}
    lines = [
        Row(name, [Cell(start + metric, digits=digits) for metric, (_, digits) in shown.items()])
        for name, start in place.items()
    ]
    return Table(title, ("", *(column for column, _ in shown.values())), lines, note)


def _note(rows: Sequence[results.Result]) -> str:
    seeds = len({row.seed for row in rows})
    interval = (
        f"Numbers are means over {seeds} seeds, small figures under them the smallest and the largest of those seeds; "
        "for presets with one seed, the 95 % bootstrap interval over cases."
        if seeds > 1
        else "Small figures under a number: 95 % bootstrap interval over cases, of the one seed that was run."
    )
    return (
        f"Test patients. {interval} results.csv holds every seed and finding. A dash: the model does not align "
        "reports, does not choose slices or was not trained on that modality. GFLOP: matrix products of one step on "
        "the whole batch, counted in the compiled program. Slice scores due to the layer: the share of their "
        "variance; 1 is a choice by position alone. Seconds: median step time during training "
        f"({jax.device_count()} x {jax.devices()[0].device_kind}); other load on the machine is not excluded. "
        "The presets are defined in configs/pretrain.py."
    )
