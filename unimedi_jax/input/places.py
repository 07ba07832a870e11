"""Places: the records of one modality of one set. What is measured on them stands under the place's name.

The first set of `config.data` with records of a modality for validation or testing has the modality's own name, "xray"
or "ct"; every further set's is followed by the set's, as in "xray:mine".
"""

import dataclasses
from collections.abc import Sequence

from unimedi_jax.input.pipeline import MODALITIES, NAMES
from unimedi_jax.input.records import RecordSet

SINGULAR = {"xray": "X-ray", "ct": "CT"}
MEASURED = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Place:
    """One modality of one set."""

    name: str  # "xray", or "xray:mine"
    modality: str
    dataset: RecordSet
    alone: bool = True  # no other set is measured: titles need not say which

    @property
    def labels(self) -> list[str]:
        """Names of the set's labels."""
        return self.dataset.contract["labels"]

    @property
    def title(self) -> str:
        """As it heads a row: "X-ray", or "X-ray, mine"."""
        return SINGULAR[self.modality] + self._set

    @property
    def plural(self) -> str:
        """As it stands in a sentence: "X-rays", or "X-rays, mine"."""
        return NAMES[self.modality] + self._set

    @property
    def _set(self) -> str:
        return "" if self.alone else f", {self.dataset.name}"


def set_names(data: str) -> list[str]:
    """The sets of a `config.data`, whose weights ("mine,phantom:0.5") mean nothing to an evaluation."""
    return [name for part in data.split(",") if (name := part.partition(":")[0].strip())]


def of_sets(sets: Sequence[RecordSet], splits: Sequence[str] = MEASURED) -> list[Place]:
    """The places that have records in one of the splits: X-rays before CTs, sets in their order."""
    pairs = [(m, one) for m in MODALITIES for one in sets if any(one.size(m, split) for split in splits)]
    first: dict[str, RecordSet] = {}
    for modality, one in pairs:
        first.setdefault(modality, one)
    return [
        Place(modality if one is first[modality] else f"{modality}:{one.name}", modality, one, alone=len(sets) == 1)
        for modality, one in pairs
    ]
