"""What every source of records offers: light rows, and a function that turns a row into an example."""

import dataclasses
from collections.abc import Callable
from typing import Any

from data import record_grid
from data.record_grid import RecordGrid

MODALITIES = ("xray", "ct")
SPLITS = ("train", "val", "test")
ORGANS = ("right lung", "left lung", "heart")

# The fields of a record, and `notes`: codes of reasons.NOTES that go to the contract and the doctor.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One X-ray or CT of a source, before its pixels are read. Small and picklable: rows cross process borders."""

    key: str  # unique in the set and stable from run to run; becomes the record's id
    modality: str  # "xray" or "ct"
    split: str  # "train", "val" or "test"
    number: int  # position in the source, data rows counted from 1
    info: Any = None  # what the source's `convert` needs, such as a path or a seed
    path: str = ""  # as the user wrote it, for the reject ledger


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that is left out. `reason` starts with a code, as in `bad_spacing: ...`, and never holds report text."""

    row: int
    path: str
    reason: str

    @property
    def code(self) -> str:
        """The key of reasons.REJECTED."""
        return self.reason.partition(":")[0]


ConvertRow = Callable[[Row], Example | Rejected]


@dataclasses.dataclass(frozen=True)
class Source:
    """A raw data set, ready to be converted.

    `convert` is a module-level function (or a functools.partial of one), pure, and safe in a worker process:
    the same row gives the same example, whatever ran before it.
    """

    labels: tuple[str, ...]  # names of the columns of `labels`
    prompts: dict[str, dict[str, list[str]]]  # label -> {"positive": [...], "negative": [...]}
    rows: list[Row]
    convert: ConvertRow
    annotations: frozenset[str] = frozenset()  # of "organ_mask", "lesion_mask", "boxes": what examples carry
    contract: dict[str, Any] = dataclasses.field(default_factory=dict)  # source-specific preprocessing facts
    rejected: tuple[Rejected, ...] = ()  # rows that are left out before any pixel is read
    columns: tuple[str, ...] = ()  # of views.COLUMNS: what the records tell beside the rest
    organs: tuple[str, ...] = ORGANS  # what 1, 2, ... mean in `organ_mask`
    salt: str = ""  # of the hashes that tell members of sets
    grid: RecordGrid = record_grid.DEFAULT  # of the examples' pixels
    limits: dict[str, float] = dataclasses.field(default_factory=dict)  # settings that reject rows and change no record

    @property
    def for_training(self) -> bool:
        """Whether it has training rows; without any the set is for evaluation alone."""
        return any(row.split == "train" for row in self.rows)
