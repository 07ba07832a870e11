"""The one-page report of a run: a single HTML file that opens offline and runs no script."""

import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimedi_jax.report import examples, figures, markup
from unimedi_jax.report.content import PageContent
from unimedi_jax.report.tables import latest

STYLE = Path(__file__).with_name("style.css")
HIDDEN_NOTE = (
    "Report texts are hidden; write the page with show_reports=True to show them. The pictures on "
    "this page are of held-out patients: handle the file as you handle the data."
)
VALIDATION = re.compile(r"val/.*(loss|macro|i2t_r5|any/hit_rate)")
CURVES_PER_PANEL = 8


def write(path: str | os.PathLike[str], content: PageContent, *, show_reports: bool = False) -> Path:
    """Writes the page to `path`, folders included, and returns its path.

    `show_reports=False` replaces every report text by "hidden". The file appears whole or not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render(content, show_reports=show_reports), encoding="utf-8")
    return partial.replace(path)


def render(content: PageContent, *, show_reports: bool = False) -> str:
    """The page as HTML text."""
    sections = (
        ("Results", _results(content)),
        ("Training curves", _curves(content.metrics)),
        ("Map of the joint embeddings", _embedding(content)),
        ("Side by side", _pictures(content.pictures)),
        ("Attention on X-rays", examples.attention(content.attention, show=show_reports)),
        ("Slices of CTs", examples.slices(content.slices, show=show_reports)),
        ("Retrieved reports", examples.retrieval(content.retrieval, show=show_reports)),
        ("What this was trained on", _data(content.contract)),
        ("Configuration", _config(content.config)),
    )
    shown = [(title, body) for title, body in sections if body]
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in shown)
    bodies = "".join(f'<section id="{_anchor(title)}"><h2>{title}</h2>{body}</section>' for title, body in shown)
    warning = "" if show_reports else f'<p class="note">{HIDDEN_NOTE}</p>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The page itself forbids loading anything from anywhere, and any script.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(content.name)}: UniMedI report</title>"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body>"
        f'<header><p class="kind">UniMedI {html.escape(content.kind)}</p>'
        f"<h1>{html.escape(content.name)}</h1>{_facts(content)}{warning}<nav>{links}</nav></header>"
        f"<main>{bodies}</main></body></html>\n"
    )


def _facts(content: PageContent) -> str:
    """The run in a few numbers: steps, loss at both ends, time, speed."""
    lines = [line for line in content.metrics if line.get("loss") is not None]
    if not lines:
        return ""
    first, last = lines[0], lines[-1]
    facts = [
        ("last step", markup.number(last["step"], "step", digits=0)),
        ("first logged loss", markup.number(first["loss"], "loss")),
        ("last logged loss", markup.number(last["loss"], "loss")),
    ]
    if "time" in first and "time" in last:
        minutes = (last["time"] - first["time"]) / 60
        facts.append(("between them", f"{minutes:.1f} min"))
    speed = latest(content.metrics, "speed/samples_per_s")
    if speed is not None:
        facts.append(("samples per second", markup.number(speed, "speed/samples_per_s", digits=1)))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>'


def _results(content: PageContent) -> str:
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in content.notes)
    return notes + "".join(markup.table(table, content.metrics) for table in content.tables)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    pictures = [
        markup.picture(figures.curves(metrics, keys, title=title), f"{title} against the training step")
        for title, keys in _panels(metrics)
    ]
    return f'<div class="panels">{"".join(pictures)}</div>' if pictures else ""


def _panels(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Titles and keys of the curves: scalars of two steps or more, few to a panel."""
    count: dict[str, int] = {}
    for line in metrics:
        for key in line:
            count[key] = count.get(key, 0) + 1
    keys = [key for key in count if count[key] > 1 and isinstance(latest(metrics, key), int | float)]
    groups = (
        ("Total loss", [key for key in keys if key == "loss"]),
        ("Parts of the loss", [key for key in keys if key.startswith("loss/")]),
        ("X-rays", [key for key in keys if key.startswith("xray/")]),
        ("CTs", [key for key in keys if key.startswith("ct/")]),
        ("Validation patients", [key for key in keys if VALIDATION.fullmatch(key)]),
        ("Learning rate", [key for key in keys if key == "lr"]),
    )
    for title, found in groups:
        for start in range(0, len(found), CURVES_PER_PANEL):
            yield title, found[start : start + CURVES_PER_PANEL]


def _embedding(content: PageContent) -> str:
    found = content.embedding
    if found is None:
        return ""
    by_modality = figures.embedding_map(found.points, found.modality, found.modality, "By modality")
    by_finding = figures.embedding_map(found.points, found.finding, found.modality, "By finding")
    return (
        '<p class="hint">t-SNE of the joint embeddings of held-out patients. A shared space has '
        "the modalities mixed and the findings apart; distances between far clusters mean nothing."
        "</p>"
        '<div class="panels">'
        + markup.picture(by_modality, "t-SNE coloured by modality")
        + markup.picture(by_finding, "t-SNE coloured by finding")
        + "</div>"
    )


def _pictures(pictures: Sequence[tuple[str, bytes]]) -> str:
    shown = "".join(
        f"<figure>{markup.picture(png, title)}<figcaption>{html.escape(title)}</figcaption></figure>"
        for title, png in pictures
    )
    return f'<div class="panels">{shown}</div>' if shown else ""


def _data(contract: Mapping[str, Any]) -> str:
    if not contract:
        return ""
    labels = ", ".join(html.escape(str(name)) for name in contract.get("labels", ()))
    text = f"<p>Findings: {labels}.</p>" if labels else ""
    counts = contract.get("splits")
    if isinstance(counts, Mapping) and all(isinstance(row, Mapping) for row in counts.values()):
        columns = list(dict.fromkeys(name for row in counts.values() for name in row))
        head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in columns)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(str(name))}</th>'
            + "".join(f"<td>{html.escape(str(row.get(column, 0)))}</td>" for column in columns)
            + "</tr>"
            for name, row in counts.items()
        )
        text += (
            '<div class="wide"><table><thead><tr><th scope="col">Cases</th>'
            f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    return text + markup.details("Preprocessing contract", contract)


def _config(config: Mapping[str, Any]) -> str:
    return markup.details("All settings", config) if config else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
