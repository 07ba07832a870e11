"""What goes into a report page: plain arrays, texts and the lines of metrics.jsonl."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, UInt8


class Number(NamedTuple):
    """A value of the metrics with its name, to be shown rounded."""

    key: str
    value: float
    digits: int = 3

    @property
    def text(self) -> str:
        return f"{self.value:.{self.digits}f}" if math.isfinite(self.value) else "n/a"

    @property
    def exact(self) -> str:
        """All digits as JSON; not-a-number is null, as in metrics.jsonl."""
        return json.dumps(self.value if math.isfinite(self.value) else None)


class Cell(NamedTuple):
    """Which number stands in a cell of a table; `tables.shown` looks it up."""

    key: str  # in metrics.jsonl
    beside: str | None = None  # key of the number to compare it with
    beside_name: str = ""  # what that number is: "untrained", "chance", "random"
    digits: int = 3
    chance: str | float | None = None  # what guessing gives, or its key
    counts: str | None = None  # of an AUC: <counts>/positives and <counts>/negatives are the cases behind it


class Shown(NamedTuple):
    """What a cell shows: nothing where the metrics lack its number."""

    numbers: dict[str, Number]  # "value", and where they are known "low", "high", "beside"
    below_chance: bool = False
    few: dict[str, Number] | None = None  # "positive" and "negative" cases, where one is fewer than `auroc.FEWEST`


class Row(NamedTuple):
    """One line of a table: its name and a cell for every column after the first."""

    name: str
    cells: Sequence[Cell | None]  # None leaves the cell empty


class Table(NamedTuple):
    """Rows of cells. Every number is looked up in the metrics, so a page shows nothing that they do not hold."""

    title: str
    columns: Sequence[str]  # the first heads the row names
    rows: Sequence[Row]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """Points of the t-SNE map, from `figures.tsne` on the joint embeddings."""

    points: Float[np.ndarray, "n 2"]
    modality: Sequence[str]  # n names, e.g. "X-ray", "CT", "report"
    finding: Sequence[str]  # n names, as `findings.kind` gives them


@dataclasses.dataclass(frozen=True)
class AttentionExample:
    """Attention of CLS over one X-ray."""

    image: UInt8[np.ndarray, "y x"]  # as the model saw it
    scores: Float[np.ndarray, "gy gx"]  # eq.1 on the patch grid
    findings: str  # as `findings.described` gives them
    report: str = ""
    lesion: Bool[np.ndarray, "y x"] | None = None  # outlined where known
    source: str = "X-ray"  # and of which set, where there are several
    reason: str = ""  # why this case: "median of 61: attention AUC 0.71"


@dataclasses.dataclass(frozen=True)
class SliceExample:
    """Slice scores of one CT and the slices they chose."""

    volume: Int16[np.ndarray, "z y x"]  # HU
    scores: Float[np.ndarray, " layers"]  # eq.2; layers divides z
    chosen_layers: Int[np.ndarray, " k"]
    chosen_slices: Int[np.ndarray, " s"]  # the slices shown to the model, as indices of z
    findings: str
    report: str = ""
    lesion: Bool[np.ndarray, "z y x"] | None = None
    source: str = "CT"
    reason: str = ""


class Retrieved(NamedTuple):
    """One report that was retrieved for an image."""

    report: str
    similarity: float
    correct: bool | None  # the same text, or the same findings by the labels; None: they leave it open


@dataclasses.dataclass(frozen=True)
class RetrievalExample:
    """A held-out image, its true report and the reports retrieved for it, best first."""

    source: str  # "X-ray" or "CT", and of which set, where there are several
    image: UInt8[np.ndarray, "y x"]  # X-ray, or one slice of the CT (`figures.lung_window`)
    true_report: str
    retrieved: Sequence[Retrieved]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class PageContent:
    """Everything that a report page shows; sections without content are left out."""

    name: str  # of the run
    config: Mapping[str, Any]  # config.json
    contracts: Mapping[str, Mapping[str, Any]]  # contract.json of the built sets, by name
    metrics: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl, oldest first
    tables: Sequence[Table]  # `tables.result_tables(...)` or own ones
    embedding: EmbeddingMap | None = None
    attention: Sequence[AttentionExample] = ()
    slices: Sequence[SliceExample] = ()
    retrieval: Sequence[RetrievalExample] = ()
    notes: Sequence[str] = ()  # plain sentences under the headline, e.g. labels whose prompts look inverted
    headline: Sequence[str] = ()  # what the numbers show and what they do not (`headline.of`), under the title
    flags: Sequence[str] = ()  # numbers that show nothing, and why
    kind: str = "pre-training report"
    pictures: Sequence[tuple[str, bytes]] = ()  # titles and PNGs, shown side by side
