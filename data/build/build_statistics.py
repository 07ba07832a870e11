"""What a build has accepted and rejected so far: counts, hashes, reasons."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from data.source import MODALITIES, SPLITS, Example, Rejected

NOWHERE: frozenset[str] = frozenset()


@dataclasses.dataclass
class BuildStatistics:
    """Collects every row of a build; the splits of a modality may be interleaved, each in its own order."""

    rejected: list[Rejected]
    accepted: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # codes of reasons.NOTES
    reports: set[str] = dataclasses.field(default_factory=set)  # of the training split
    # Training pictures by patient and study, or report where no study is named, as hashes.
    studies: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    _digests: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    pictures: dict[bytes, frozenset[str]] = dataclasses.field(default_factory=dict)  # hash -> splits
    patients: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)  # as the records name them -> splits

    def add(self, modality: str, split: str, example: Example, notes: Iterable[str] = ()) -> None:
        """Adds an accepted row: `example` as it will be stored."""
        place = (modality, split)
        self.notes.update(notes)
        self.accepted[place] += 1
        digest = self._digests.setdefault(place, hashlib.sha256())
        for name in sorted(example):
            value = example[name]
            array = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else np.asarray(value)
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(array.tobytes())
        for splits, key in ((self.pictures, image_key(example)), (self.patients, example["patient"])):
            splits[key] = _with(splits.get(key, NOWHERE), split)
        if split == "train":
            self.reports.add(example["report"])
            if example["report"]:
                self.studies[study_key(example["patient"], example.get("study") or example["report"])] += 1

    def content_hash(self) -> str:
        """sha256 over all fields of all examples, in the order they are stored."""
        places = [(m, s) for m in MODALITIES for s in SPLITS if (m, s) in self._digests]
        return hashlib.sha256(b"".join(self._digests[place].digest() for place in places)).hexdigest()

    def leaked(self) -> int:
        """How many images are, pixel by pixel, in more than one split."""
        return sum(len(splits) > 1 for splits in self.pictures.values())

    def sharing_a_report(self) -> int:
        """How many training pictures are of the same patient and study, or report, as another."""
        return sum(count for count in self.studies.values() if count > 1)

    def total(self) -> int:
        """Accepted rows."""
        return sum(self.accepted.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Accepted rows by modality and split; a modality without any is absent."""
        return {
            modality: {split: self.accepted[modality, split] for split in SPLITS}
            for modality in MODALITIES
            if any(self.accepted[modality, split] for split in SPLITS)
        }

    def rejected_in_order(self) -> tuple[Rejected, ...]:
        """The rejected rows in the order of the source."""
        return tuple(sorted(self.rejected, key=lambda one: one.row))


@functools.cache
def _with(splits: frozenset[str], split: str) -> frozenset[str]:
    """One object for all that lie in the same splits: a million sets would take a quarter of a gigabyte."""
    return splits | {split}


def study_key(patient: str, study: str) -> bytes:
    """A hash that pictures share which belong together: of one patient, of one study or under one report."""
    return hashlib.blake2b(f"{patient}\0{study}".encode(), digest_size=8).digest()


def image_key(example: Example) -> bytes:
    """A hash that images share exactly when they are equal pixel by pixel."""
    image = example["image"] if "image" in example else example["volume"]
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
