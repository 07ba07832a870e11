"""Pieces of HTML that the sections share; every text from outside is escaped."""

import base64
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unimedi_jax.report.content import Cell, Table
from unimedi_jax.report.tables import latest

HIDDEN = "hidden"


def table(content: Table, metrics: Sequence[Mapping[str, Any]]) -> str:
    """A table whose numbers are looked up in the lines of metrics.jsonl."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in content.columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row.name)}</th>'
        + "".join(f"<td>{_cell(cell, metrics)}</td>" for cell in row.cells)
        + "</tr>"
        for row in content.rows
    )
    note = f'<p class="hint">{html.escape(content.note)}</p>' if content.note else ""
    return (
        f"<h3>{html.escape(content.title)}</h3>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(cell: Cell | None, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The number, its interval, and the number beside it; a dash where the metrics have none."""
    value = None if cell is None else latest(metrics, cell.key)
    if cell is None or value is None:
        return '<span class="none">&ndash;</span>'
    text = number(value, cell.key, digits=cell.digits)
    if cell.digits:
        text = f"<b>{text}</b>"  # a result, not a count
    bounds = [latest(metrics, f"{cell.key}/{end}") for end in ("low", "high")]
    if None not in bounds:
        low, high = (
            number(bound, f"{cell.key}/{end}", digits=cell.digits)
            for bound, end in zip(bounds, ("low", "high"), strict=True)
        )
        text += f'<small class="interval">{low} to {high}</small>'
    beside = None if cell.beside is None else latest(metrics, cell.beside)
    if cell.beside is not None and beside is not None:
        other = number(beside, cell.beside, digits=cell.digits)
        text += f'<small class="beside">{html.escape(cell.beside_name)} {other}</small>'
    return text


def number(value: float, key: str, *, digits: int = 3) -> str:
    """A rounded number that carries its metric's name and exact value (JSON) as attributes."""
    finite = math.isfinite(value)
    text = f"{value:.{digits}f}" if finite else "n/a"
    exact = html.escape(json.dumps(value if finite else None))  # metrics.jsonl writes NaN as null
    return f'<span data-key="{html.escape(key)}" data-value="{exact}">{text}</span>'


def details(title: str, tree: Mapping[str, Any]) -> str:
    """A nested dict as a table that opens on a click."""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in _leaves(tree)
    )
    return (
        f"<details><summary>{title}</summary>"
        f'<div class="wide"><table class="settings"><tbody>{rows}</tbody></table></div></details>'
    )


def _leaves(tree: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and JSON values of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", json.dumps(value, ensure_ascii=False, default=str)


def findings(names: Sequence[str]) -> str:
    """The findings of a case as one phrase."""
    return html.escape(", ".join(name.replace("_", " ") for name in names)) or "no finding"


def report(text: str, show: bool) -> str:
    """A report text, or the word "hidden"; nothing where there is none."""
    if not text:
        return ""
    return f'<p class="report">{html.escape(text) if show else HIDDEN}</p>'


def picture(png: bytes, alt: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
