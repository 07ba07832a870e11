"""Pictures of one study: which records they are, and what a batch takes of them (`config.input.per_study`).

A study is of one patient: its pictures share the record's field `study`, or where a set names none their report.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from data import progress, views
from unimedi_jax.config.pretraining import InputConfig
from unimedi_jax.input import records, transforms

EPOCHS = 4  # whose orders stay: samples are prepared ahead, across an epoch's end
Source = Sequence[dict[str, Any]]


class Studies(NamedTuple):
    """The studies of a split, in the order of their first pictures."""

    pictures: tuple[tuple[int, ...], ...]  # rows of the records
    frontal: frozenset[int]  # of these rows, the X-rays that their records call frontal


def read(record_set: records.RecordSet, modality: str, max_damaged: float = 0.0) -> Studies:
    """Looks through the training records for their studies; no picture is decoded.

    A share of `max_damaged` may be unreadable: the next record stands for each, as in training.
    """
    source: Source = record_set.source(modality, "train", ("patient", "report", "study", "view"))
    if max_damaged:
        source = records.SkipDamaged(source, max_damaged)
    pictures: dict[records.StudyKey, list[int]] = {}
    frontal = set()
    with progress.shown(len(source), f"studies of {record_set.name}") as tick:
        for row, record in enumerate(source):
            pictures.setdefault(records.study_key(record), []).append(row)
            if views.kind(records.text(record.get("view", ""))) == views.FRONTAL:
                frontal.add(row)
            tick(1)
    return Studies(tuple(map(tuple, pictures.values())), frozenset(frontal))


def samples(
    source: Source, studies: Studies, sampler: transforms.ToSample, reading: InputConfig, seed: int
) -> grain.MapDataset[transforms.Sample]:
    """Samples without end of a set's studies, shuffled anew every epoch.

    "one": a picture of each study, drawn anew; "frontal": its first frontal picture, or where there is none its first;
    "all": at most `reading.most_of_study` pictures of each, one after the other.
    """
    if reading.per_study == "all":
        together = Together(source, studies.pictures, sampler, reading.most_of_study, seed)
        return grain.MapDataset.range(sys.maxsize).seed(seed).random_map(together)
    pictures = studies.pictures
    if reading.per_study == "frontal":
        pictures = tuple((next((row for row in rows if row in studies.frontal), rows[0]),) for rows in pictures)
    shuffled = grain.MapDataset.range(len(pictures)).seed(seed).shuffle()
    return shuffled.repeat().random_map(functools.partial(_one, source, pictures, sampler))


def _one(
    source: Source,
    pictures: Sequence[Sequence[int]],
    sampler: transforms.ToSample,
    study: int,
    rng: np.random.Generator,
) -> transforms.Sample:
    rows = pictures[study]
    row = rows[int(rng.integers(len(rows)))] if len(rows) > 1 else rows[0]
    return sampler(source[row], rng)


class Together:
    """The sample at any place of an endless order in which the pictures of a study follow one another."""

    def __init__(
        self, source: Source, pictures: Sequence[Sequence[int]], sampler: transforms.ToSample, most: int, seed: int
    ) -> None:
        """At most `most` pictures of a study in an epoch, drawn anew in each."""
        self._source, self._pictures, self._sampler = source, pictures, sampler
        self._most, self._seed = most, seed
        self._sizes = np.array([min(len(rows), most) for rows in pictures])
        self._length = int(self._sizes.sum())  # of an epoch
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of the last epochs that were asked for

    def __call__(self, place: int, rng: np.random.Generator) -> transforms.Sample:
        return self._sampler(self._source[self.row(place)], rng)

    def row(self, place: int) -> int:
        """Of the record at a place. It depends on place and seed alone: an order can be entered anywhere."""
        epoch, place = divmod(place, self._length)
        order, ends = self._order(epoch)
        at = int(np.searchsorted(ends, place, side="right"))
        study = int(order[at])
        rows, number = self._pictures[study], int(ends[at]) - 1 - place
        if len(rows) <= self._most:
            return rows[number]
        return rows[int(np.random.default_rng([self._seed, epoch, study]).permutation(len(rows))[number])]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the studies in an epoch, and where each ends."""
        if (known := self._orders.get(epoch)) is not None:
            return known
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        made = order, np.cumsum(self._sizes[order])
        # Another dict, and not this one changed: threads look into it.
        self._orders = dict([*self._orders.items()][1 - EPOCHS :]) | {epoch: made}
        return made
