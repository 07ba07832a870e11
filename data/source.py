"""What every source of records offers: light rows, and one function that turns a row into an example."""

import dataclasses
from collections.abc import Callable
from typing import Any

MODALITIES = ("xray", "ct")
SPLITS = ("train", "val", "test")
ORGANS = ("right lung", "left lung", "heart")

# The fields of a record, and `notes`: codes of reasons.NOTES that go to the contract and the doctor.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One X-ray or CT of a source, before its pixels are read. Small and picklable: rows cross process borders."""

    key: str  # unique in the set and stable from run to run; becomes the record's id
    modality: str  # "xray" or "ct"
    split: str  # "train", "val" or "test"
    number: int  # position in the source, data rows counted from 1
    info: Any = None  # whatever the source's `convert` needs, e.g. a path or a seed
    path: str = ""  # as the user wrote it, for the reject ledger


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that stays out of the set. `reason` starts with a code: `bad_spacing: ...`; never holds report text."""

    row: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A raw data set, ready to be converted.

    `convert` is a module-level function (or a functools.partial of one), pure, and safe in a worker process:
    the same row gives the same example, whatever ran before it.
    """

    labels: tuple[str, ...]  # names of the columns of `labels`
    prompts: dict[str, dict[str, list[str]]]  # label -> {"positive": [...], "negative": [...]}
    rows: list[Row]
    convert: Callable[[Row], Example | Rejected]
    truth: frozenset[str] = frozenset()  # of {"organ_mask", "lesion_mask", "boxes"}: what examples carry
    contract: dict[str, Any] = dataclasses.field(default_factory=dict)  # source-specific preprocessing facts
    rejected: tuple[Rejected, ...] = ()  # rows refused before any pixel was read
    organs: tuple[str, ...] = ORGANS  # of the values 1, 2, ... of `organ_mask`
    for_training: bool = True  # False: a set to be evaluated on alone, such as CheXpert 5x200
