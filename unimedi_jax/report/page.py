"""The one-page report of a run: a single HTML file that opens offline and runs no script."""

import collections
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
from unimedi_jax.report import figures, tables
from unimedi_jax.report.content import Number, PageContent

TEMPLATE = Path(__file__).with_name("templates") / "page.html"
VALIDATION = re.compile(r"val/.*(loss|macro|i2t_r5|any/hit_rate)")
TITLES = {
    "information": "Information of the targets, in nats"
}  # of measures that are no loss, by the end of their names
CURVES_PER_PANEL = 8


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
        facts["between them"] = f"{(last['time'] - first['time']) / 60:.1f} min"
    speed = tables.latest(metrics, "speed/samples_per_s")
    if speed is not None:
        facts["samples per second"] = Number("speed/samples_per_s", speed, digits=1)
    return facts


def _panels(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Titles and keys of the curves: scalars of two steps or more, few to a panel."""
    count = collections.Counter(key for line in metrics for key in line)
    keys = [key for key in count if count[key] > 1 and isinstance(tables.latest(metrics, key), int | float)]
    losses = {key.removeprefix("loss/") for key in keys if key.startswith("loss/")}
    groups = {
        "Total loss": [key for key in keys if key == "loss"],
        "Parts of the loss": [key for key in keys if key.startswith("loss/")],
    }
    # What is no loss, such as a count or nats, has an axis of its own: on that of the losses it would flatten them.
    for modality, name in pipeline.NAMES.items():
        own = {key: key.removeprefix(f"{modality}/") for key in keys if key.startswith(f"{modality}/")}
        groups[name] = [key for key, measure in own.items() if measure in losses]
        for key, measure in own.items():
            if measure not in losses:
                end = measure.rpartition("_")[2]
                groups.setdefault(TITLES.get(end, end.capitalize()), []).append(key)
    groups |= {
        "Validation patients": [key for key in keys if VALIDATION.fullmatch(key)],
        "Learning rate": [key for key in keys if key == "lr"],
    }
    for title, members in groups.items():
        for start in range(0, len(members), CURVES_PER_PANEL):
            yield title, members[start : start + CURVES_PER_PANEL]


def _splits(contract: Mapping[str, Any]) -> list[str]:
    """Names of the splits of a set, of all its modalities."""
    return list(dict.fromkeys(name for counts in contract["splits"].values() for name in counts))


def _settings(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names and JSON values of a nested dict."""
    return {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in flat(tree).items()}
