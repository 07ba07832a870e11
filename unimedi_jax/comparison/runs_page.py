"""The table of several pre-training runs, as a CSV, a page and text."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from data.buckets import mirror
from unimedi_jax.comparison import runs
from unimedi_jax.evaluation import results
from unimedi_jax.input import pipeline
from unimedi_jax.metrics import auroc
from unimedi_jax.report import page, tables
from unimedi_jax.report.content import Cell, PageContent, Row, Table

Forms = Mapping[str, tuple[str, int]]  # metrics with their columns and digits
# Metrics of a table with their columns and digits; further sets have tables of their own.
SHOWN: Forms = {
    "xray/zeroshot/macro10": ("X-ray zero-shot AUC", 3),
    "ct/zeroshot/macro10": ("CT zero-shot AUC", 3),
    "xray/probe/macro10": ("X-ray probe AUC", 3),
    "ct/probe/macro10": ("CT probe AUC", 3),
    "xray/supervised/macro10": ("X-ray supervised AUC", 3),
    "ct/supervised/macro10": ("CT supervised AUC", 3),
    "xray/retrieval/i2t_r5": ("X-ray R@5", 3),
    "ct/retrieval/i2t_r5": ("CT R@5", 3),
    "ct/slices/any/hit_rate": ("slice hit rate", 3),
    "ct/slices/any/layer_share": ("slice scores due to the layer", 3),
    "gap/xray_ct/distance": ("gap, centroids", 3),
    "gap/xray_ct/accuracy": ("modality classification accuracy", 3),
    "gap/xray_ct_cls/accuracy": ("the same on CLS", 3),
    "gap/images/separation": ("class separation", 3),
    runs.GFLOP: ("GFLOP a step", 1),
    runs.SECONDS: ("s a step", 2),
}
CEILING = "/supervised/"  # in the names of those of networks that were trained on the labels
CHANCE = {"retrieval/i2t_r5": "retrieval/chance_r5", "slices/any/hit_rate": "slices/any/random_rate"}
FURTHER = re.compile(r"(?:xray|ct):([^/]+)/")  # metrics of further sets than the first of a modality


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
    results.write_csv(workdir / results.FILE, rows)
    shown = _shown(list(dict.fromkeys(row.metric for row in rows)), title)
    metrics = {name for forms in shown.values() for metric in forms for name in (metric, _chance(metric))}
    merged = [row for row in results.average(rows, spread=True) if row.metric in metrics]
    scalars: dict[str, Any] = {"step": 0} | results.scalars(merged) | dict(scalars_beside or {})
    own = [_table(merged, name, forms) for name, forms in shown.items()]
    own[0] = own[0]._replace(note=" ".join(filter(None, (_note(rows), note))))
    settings, all_tables = mirror.named(json.loads(config.to_json_best_effort())), [*own, *tables_beside]
    content = PageContent(workdir.name, settings, {}, [scalars], all_tables, kind=title.lower(), pictures=pictures)
    path = page.write(workdir / "index.html", content, show_reports=True)
    print("\n\n".join(tables.text(table, [scalars], intervals=True) for table in own))
    print(f"page: {path}\nall numbers: {workdir / results.FILE}")


def _shown(measured: Sequence[str], title: str) -> dict[str, Forms]:
    """Titles of the tables, and what they show.

    Ceilings have a column only where one was measured, and so have all metrics of further sets.
    """
    first = {metric: form for metric, form in SHOWN.items() if metric in measured or CEILING not in metric}
    shown = {title: first}
    for name in dict.fromkeys(match[1] for metric in measured if (match := FURTHER.match(metric))):
        shown[f"{title}: {name}"] = {metric: form for metric, form in _of_set(name).items() if metric in measured}
    return shown


def _of_set(name: str) -> Forms:
    """SHOWN, but for costs, as the metrics of a further set are called; gaps with X-rays, CTs or both of that set."""
    forms = {}
    for metric, (column, digits) in SHOWN.items():
        modality, _, rest = metric.partition("/")
        if modality in pipeline.MODALITIES:
            forms[f"{modality}:{name}/{rest}"] = (column, digits)
        if rest.startswith("xray_ct"):
            for pair, whose in ((f"xray:{name}_ct", "its X-rays"), (f"xray_ct:{name}", "its CTs")):
                forms[f"gap/{rest.replace('xray_ct', pair)}"] = (f"{column}, {whose}", digits)
            forms[f"gap/{rest.replace('xray_ct', f'xray:{name}_ct:{name}')}"] = (column, digits)
    return forms


def _chance(metric: str) -> str:
    """The metric of what guessing gives; "" where there is none."""
    place, _, rest = metric.partition("/")
    return f"{place}/{CHANCE[rest]}" if rest in CHANCE else ""


def _cell(start: str, metric: str, digits: int) -> Cell:
    chance = start + _chance(metric) if _chance(metric) else None
    return Cell(start + metric, digits=digits, chance=auroc.CHANCE if metric.endswith("/macro10") else chance)


def _table(merged: Sequence[results.Result], title: str, forms: Forms) -> Table:
    """A line for each preset, in the order of the rows."""
    place = {row.encoder: f"{row.encoder}/{row.key.removesuffix(row.metric)}" for row in merged}
    lines = [
        Row(name, [_cell(start, metric, digits) for metric, (_, digits) in forms.items()])
        for name, start in place.items()
    ]
    return Table(title, ("", *(column for column, _ in forms.values())), lines)


def _note(rows: Sequence[results.Result]) -> str:
    seeds = len({row.seed for row in rows})
    interval = (
        f"Numbers are means over {seeds} seeds, small figures under them the smallest and the largest of those seeds; "
        "for presets with one seed, the 95 % bootstrap interval over patients."
        if seeds > 1
        else "Small figures under a number: 95 % bootstrap interval over patients, of the one seed that was run."
    )
    return (
        f"Test patients. {interval} results.csv holds every seed and finding. A dash: the model does not align "
        "reports, does not choose slices or was not trained on that modality, or no finding has enough cases: AUCs are "
        f"means over the findings with at least {auroc.FEWEST} positive and {auroc.FEWEST} negative ones. Below "
        "chance: guessing does better. GFLOP: matrix products of one step on "
        "the whole batch, counted in the compiled program. Slice scores due to the layer: the share of their "
        "variance; 1 is a choice by position alone. Seconds: median step time during training "
        f"({jax.device_count()} x {jax.devices()[0].device_kind}); other load on the machine is not excluded. "
        "The presets are defined in configs/pretrain.py."
    )
