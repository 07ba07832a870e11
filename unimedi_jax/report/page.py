"""The one-page report of a run: a single HTML file that opens offline and runs no script."""

import collections
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import pages
from data.contract import flat
from unimedi_jax.input import pipeline
from unimedi_jax.metrics import auroc
from unimedi_jax.report import figures, loss_names, tables
from unimedi_jax.report.content import Number, PageContent

TEMPLATE = Path(__file__).with_name("templates") / "page.html"
VALIDATION = re.compile(r"val/.*(loss|macro|i2t_r5|any/hit_rate)")
VALIDATED = {  # titles, units and chance
    "zeroshot/macro": ("zero-shot classification", "AUC, mean over findings", auroc.CHANCE),
    "prompts/macro": ("prompts on reports", "AUC, mean over findings", auroc.CHANCE),
    "supervised/macro": ("trained classifier", "AUC, mean over findings", auroc.CHANCE),
    "retrieval/i2t_r5": ("report retrieval", "recall at 5", None),
    "slices/any/hit_rate": ("chosen slices", "share of CTs hit", None),
}


def write(path: str | os.PathLike[str], content: PageContent, *, show_reports: bool = False) -> Path:
    """Writes the page to `path`, folders included, and returns its path.

    `show_reports=False` replaces every report text by "hidden". The file appears whole or not.
    """
    return pages.write(Path(path), render(content, show_reports=show_reports))


def render(content: PageContent, *, show_reports: bool = False) -> str:
    """The page as HTML text."""
    return pages.render(
        TEMPLATE,
        content=content,
        show_reports=show_reports,
        facts=_facts(content.metrics),
        panels=list(_panels(content.metrics)),
        splits_of=_splits,
        shown=functools.partial(tables.shown, metrics=content.metrics),
        flat=_settings,
        figures=figures,
    )


def _facts(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Number | str]:
    """The run in a few numbers: steps, loss at both ends, time, speed."""
    lines = [line for line in metrics if line.get("loss") is not None]
    if not lines:
        return {}
    first, last = lines[0], lines[-1]
    facts: dict[str, Number | str] = {
        "last step": Number("step", last["step"], digits=0),
        "first logged loss": Number("loss", first["loss"]),
        "last logged loss": Number("loss", last["loss"]),
    }
    if "time" in first and "time" in last:
        facts["time between the two"] = f"{(last['time'] - first['time']) / 60:.1f} min"
    speed = tables.latest(metrics, "speed/samples_per_s")
    if speed is not None:
        facts["samples per second"] = Number("speed/samples_per_s", speed, digits=1)
    return facts


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    title: str
    unit: str  # of the vertical axis
    keys: Mapping[str, str]  # of the metrics, and the names of their curves
    chance: float | None = None


def _panels(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """Scalars of two steps or more: each loss, each other measure, validation, learning rate have axes of their own."""
    count = collections.Counter(key for line in metrics for key in line)
    keys = [key for key in count if count[key] > 1 and isinstance(tables.latest(metrics, key), int | float)]
    if "loss" in keys:
        yield Panel("Total loss", "weighted sum of all losses", {"loss": "loss"})
    losses = loss_names.of(keys)
    measures = dict.fromkeys(key.partition("/")[2] for key in keys if key.partition("/")[0] in pipeline.NAMES)
    for measure in [*losses, *(measure for measure in measures if measure not in losses)]:
        own = {f"{modality}/{measure}": name for modality, name in pipeline.NAMES.items()}
        own = {key: name for key, name in own.items() if key in keys}
        if measure not in losses:
            yield Panel(*_measure(measure), own)
            continue
        whole = {f"loss/{measure}": "all"} if len(own) != 1 else {}  # of one modality they are the same
        yield Panel(loss_names.title(measure), loss_names.unit(measure), own | whole)
    if "lr" in keys:
        yield Panel("Learning rate", "learning rate", {"lr": "learning rate"})
    yield from _validation([key for key in keys if VALIDATION.fullmatch(key)])


def _measure(name: str) -> tuple[str, str]:
    """Title and unit of what is no loss, such as "icl_information" or a count."""
    loss, _, what = name.rpartition("_")
    if what == "information":
        return f"Information of the targets ({loss})", "nats"
    return f"{what.capitalize()} ({loss})" if loss else what.capitalize(), what


def _validation(keys: Sequence[str]) -> Iterator[Panel]:
    """A panel for each measure of the validation patients, with a curve for each place."""
    panels: dict[str, dict[str, str]] = {}
    for key in keys:
        place, _, measure = key.removeprefix("val/").partition("/")
        modality, _, own_set = place.partition(":")
        name = pipeline.NAMES.get(modality, modality) + (f", {own_set}" if own_set else "")
        panels.setdefault(measure or place, {})[key] = name
    for measure, curves in panels.items():
        title, unit, chance = VALIDATED.get(measure, (measure, measure.rpartition("/")[2], None))
        yield Panel(f"Validation: {title}", unit, curves, chance)


def _splits(contract: Mapping[str, Any]) -> list[str]:
    """Names of the splits of a set, of all its modalities."""
    return list(dict.fromkeys(name for counts in contract["splits"].values() for name in counts))


def _settings(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names and JSON values of a nested dict."""
    return {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in flat(tree).items()}
