"""The page: the query, the nearest pictures and reports with their scores, and where it is served a form."""

import base64
import dataclasses
import hashlib
import pathlib
import re
from typing import Any

import numpy as np

from data import pages
from unimedi_jax.report import page as report_page
from unimedi_jax.search import pictures, query, ranking, view
from unimedi_jax.search.ranking import Filters
from unimedi_jax.search.store import Index

TEMPLATE = report_page.TEMPLATE.with_name("search.html")
KINDS = {"xray": "X-ray", "ct": "CT", "report": "report"}
QUERY_SIZE = 192  # pixels of the query's picture
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
write = pages.write
ANY = Filters()


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked, as the page repeats it."""

    filters: Filters = ANY
    text: str = ""
    modality: str = ""
    pixels: np.ndarray | None = None
    row: int | None = None  # of a case of the index, where the query is one


def static(index: Index, shown: view.Shown, asked: Asked) -> str:
    """A page of one answer that opens offline."""
    return _render(index, shown, asked, served=False)


def served(index: Index, asked: Asked, shown: view.Shown | None = None, problem: str = "") -> str:
    """The page with its form, with an answer, or with a line about what is wrong with the query."""
    return _render(index, shown, asked, served=True, problem=problem)


def policy(text: str) -> str:
    """The Content-Security-Policy of a page: its styles by their hash, pictures inside it, its form alone."""
    styles = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in STYLE.findall(text))
    allowed = " ".join(f"'sha256-{one}'" for one in styles) or "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src {allowed}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


def _render(index: Index, shown: view.Shown | None, asked: Asked, *, served: bool, problem: str = "") -> str:
    hits = {} if shown is None else {kind: _cards(index, part) for kind, part in shown.hits.items()}
    chosen = (getattr(asked.filters, name) for name in ("modality", "split", "label"))
    limits = ", ".join(KINDS.get(value, value) for value in chosen if value)
    return pages.render(
        pathlib.Path(TEMPLATE),
        summary=view.summary(index),
        served=served,
        problem=problem,
        asked=asked,
        asked_png=_asked_png(index, asked),
        asked_name=KINDS.get(asked.modality, ""),
        filters=f"among: {limits}" if limits else "among all cases",
        hits=hits,
        kinds=KINDS,
        why_no_text="The index holds no texts." if not index.facts["has_reports"] else "The text is not shown.",
        longest_text=query.LONGEST_TEXT,
        **_choices(index),
    )


def _choices(index: Index) -> dict[str, list[str]]:
    modalities = [name for name in ranking.values(index, "modality") if name in ("xray", "ct")]
    names = enumerate(index.facts["labels"])
    labels = index.once("findings", lambda: [name for i, name in names if (index.labels[:, i] == 1).any()])
    return {"modalities": modalities, "splits": ranking.values(index, "split"), "labels": labels}


def _cards(index: Index, hits: list[tuple[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "report": "",
            "rank": rank,
            "row": hit.row,
            "png": pictures.png(index.pictures[hit.row]),
            "findings": query.findings(facts["labels"]),
            **facts,
        }
        for rank, (hit, facts) in enumerate(hits, 1)
    ]


def _asked_png(index: Index, asked: Asked) -> bytes:
    if asked.row is not None:
        return pictures.png(index.pictures[asked.row])
    return b"" if asked.pixels is None else pictures.png(pictures.small(asked.pixels, QUERY_SIZE))
