"""Built sets on disk: `<data_dir>/<name>/`, written by `data/`, read here with random access."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from data import contract as contracts
from data import next_step, record_files, record_grid
from data.errors import UserError
from data.record_grid import RecordGrid

LOG = logging.getLogger(__name__)
VERSION = "1.0.0"
StudyKey = tuple[str, str]  # patient; study or report
COMMON = ("id", "patient", "report", "study", "view")  # the last two in sets that have them
TRAINED_ON = {"xray": (*COMMON, "image"), "ct": (*COMMON, "volume")}


@dataclasses.dataclass(frozen=True)
class Fields(Sequence[dict[str, Any]]):
    """Records of which only some features are decoded."""

    raw: Sequence[bytes]
    features: tfds.features.FeaturesDict
    name: str  # where they are, for error messages

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self.raw):
            raise IndexError(index)  # ends a loop over the records; array_record raises something else
        try:
            return record_files.decode(self.features, self.raw[index])
        except (RuntimeError, OSError, ValueError) as error:  # array_record hashes what it holds
            why = str(error).strip().splitlines()[0][:200]
            raise UserError(
                f"record {index} of {self.name} cannot be read ({why}): bring back a copy of the set or build it "
                "again, and the same command resumes"
            ) from error


class SkipDamaged(Sequence[dict[str, Any]]):
    """Records of which a few may be damaged: each is replaced by the next readable one and named in the log.

    The replacement depends on the damage alone, so a resumed run reads the same records.
    """

    def __init__(self, records: Fields, allowed: float) -> None:
        """`allowed`: the share of the records that may be damaged before reading one is an error again."""
        self._records, self._most = records, int(allowed * len(records))
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        while True:
            try:
                return self._records[index]
            except UserError as error:
                if index not in self._damaged:
                    self._damaged.add(index)
                    LOG.warning("damaged record %d of at most %d: %s", len(self._damaged), self._most, error)
                if len(self._damaged) > self._most:
                    raise
                index = (index + 1) % len(self)


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """One built set: where it is and its preprocessing contract."""

    name: str
    folder: pathlib.Path
    contract: dict[str, Any]

    @property
    def grid(self) -> RecordGrid:
        """The grid of its records. Raises UserError for a contract that names none that records can have."""
        return record_grid.of_contract(self.contract)

    @property
    def film_size(self) -> int:
        """Pixels of both sides of its X-rays."""
        return self.grid.film_size

    @property
    def volume_shape(self) -> tuple[int, int, int] | None:
        """Voxels (z, y, x) of its volumes; None where they differ from record to record (`grid.spacing_mm`)."""
        return None if self.grid.spacing_mm else self.grid.volume

    def size(self, modality: str, split: str) -> int:
        """Number of records; 0 for a modality or split that the set lacks."""
        part = self._part(modality)
        return 0 if part is None else part.size(split)

    def source(self, modality: str, split: str, fields: Sequence[str] | None = None) -> Sequence[dict[str, Any]]:
        """Random access to the records of a split; `fields` limits what is decoded (masks are large)."""
        part = self._part(modality)
        if part is None or not part.size(split):
            raise UserError(f"the set {self.name} in {self.folder} has no {split} {modality} records")
        return Fields(part.raw(split), part.schema(fields), f"{self.folder}, {split} {modality}")

    def _part(self, modality: str) -> record_files.Part | None:
        folder = self.folder / modality / VERSION
        return record_files.read(folder, self.folder) if folder.exists() else None


def open_set(data_dir: str | pathlib.Path, name: str) -> RecordSet:
    """A built set by name.

    Raises:
        UserError: there is none, or its contract is damaged.
    """
    folder = pathlib.Path(data_dir).expanduser() / name
    contract = folder / contracts.FILE
    if not contract.exists():
        settings = {"config.source": "YOUR.csv", "config.data_dir": str(data_dir), "config.name": name}
        example = next_step.command("build", "manifest", **settings)
        raise UserError(f"no built set named {name} in {folder.parent}: build it first, for example {example}")
    return RecordSet(name, folder, contracts.read(folder))


def study_key(record: Mapping[str, Any]) -> StudyKey:
    """What the pictures of a study share and no others do: their patient, and the field `study` or else the report."""
    patient, report = text(record["patient"]), text(record["report"])
    return patient, text(record.get("study", "")) or report


def text(value: bytes | str) -> str:
    """Text of a record's field: TFDS hands out bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else value
