"""What an index is made of: the cases of built sets, of files, or of a file of embeddings, in a fixed order."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import UserError
from data.source import SPLITS, Rejected
from unimedi_jax.inference import sources
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
from unimedi_jax.search.cases import Case

IMAGES = {"xray": "image", "ct": "volume"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A case with what is embedded of it."""

    case: Case
    labels: Mapping[str, int]  # 1 or 0; those that are unknown are left out
    pixels: np.ndarray | None = None  # X-ray uint8 (256, 256), CT int16 HU (32, 128, 128)
    view: str = ""  # of an X-ray


@dataclasses.dataclass(frozen=True)
class Entries:
    """Cases that are still to be read."""

    total: int  # at most so many: files may turn out damaged
    labels: tuple[str, ...]
    facts: Any  # whatever they depend on, as JSON: content hashes of sets, sizes and times of files
    read: Callable[[Sequence[str]], Iterator[Entry]]  # those that are left where the ids of some, in order, are done
    refused: list[Rejected]  # filled while they are read


def of_sets(trained: Pretrained, data_dir: str, names: Sequence[str]) -> Entries:
    """Every record of built sets whose modality the network reads.

    Raises:
        UserError: no such set, or one whose records were made by other rules than those of the training.
    """
    sets = [records.open_set(data_dir, name) for name in names]
    parts = []
    for one in sets:
        modalities = [kind for kind in trained.reads if any(one.size(kind, split) for split in SPLITS)]
        trained.check(one, tuple(modalities))
        parts += [(one, kind, split) for kind in modalities for split in SPLITS if one.size(kind, split)]
    if not parts:
        raise UserError(f"config.data={','.join(names)} holds nothing that this network reads")
    labels = tuple(dict.fromkeys(label for one in sets for label in one.contract["labels"]))
    total = sum(one.size(kind, split) for one, kind, split in parts)
    facts = [[one.name, one.contract.get("content_sha256", "")] for one in sets]

    def read(done: Sequence[str]) -> Iterator[Entry]:
        # Two sets may have an id in common, but records are always the same.
        return itertools.islice((entry for part in parts for entry in _records(*part)), len(done), None)

    return Entries(total, labels, facts, read, [])


def _records(one: records.RecordSet, modality: str, split: str) -> Iterator[Entry]:
    names, image = one.contract["labels"], IMAGES[modality]
    for record in one.source(modality, split, (*records.TRAINED_ON[modality], "labels")):
        values = {name: int(value) for name, value in zip(names, record["labels"], strict=True) if np.isfinite(value)}
        texts = {name: records.text(record[name]) for name in ("id", "patient", "report")}
        view = records.text(record.get("view", ""))
        yield Entry(Case(**texts, modality=modality, split=split), values, record[image], view)


def of_files(trained: Pretrained, source: pathlib.Path) -> Entries:
    """X-rays, CTs and reports of what the embed job takes. Raises UserError where there is nothing."""
    sources.check(trained)
    items, refused = sources.find(source, trained.reading)
    early = [*refused, *sources.of_others(items, trained.embeds, f"this encoder reads {' and '.join(trained.embeds)}")]

    def read(done: Sequence[str]) -> Iterator[Entry]:
        refused[:] = early
        before = set(done)  # by their ids: a file that could not be read then may be readable now
        skip = [item.id in before for item in items]
        for modality in trained.embeds:
            for index, pixels in sources.read(items, modality, refused, skip):
                item = items[index]
                case = Case(item.id, modality=modality, report=item.report)
                yield Entry(case, {}, None if modality == "report" else pixels, item.view)

    return Entries(len(items), (), sources.facts(items), read, refused)
