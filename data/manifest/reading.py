"""How files that belong to no set are read: by the choices of the set that a network was trained on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data import record_grid
from data.errors import UserError
from data.manifest.options import Options
from data.readers import ct_records, geometry, volumes, xrays
from data.readers.files import Note, ignore_note
from data.record_grid import RecordGrid
from data.reports import sections
from data.source import Example


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a set's settings decide about a file: pixels come out as in its records, reports as its captions."""

    grid: RecordGrid = record_grid.DEFAULT
    scans: volumes.Rules = volumes.STRICT
    by_largest: bool = False  # greys of an X-ray's DICOM file, as `read_film` has them
    captions: sections.Policy | None = None  # None: whole reports

    @property
    def for_contract(self) -> dict[str, Any]:
        """What the source of a contract says of pixels beside the grid, as `of_contract` reads it."""
        greys = "largest" if self.by_largest else "window"
        return {"assumed_axes": self.scans.assume, "min_slices": self.scans.min_slices, "options": {"greys": greys}}

    def fields(self, path: Path, modality: str, note: Note = ignore_note) -> Example:
        """What a record holds of the pixels of an X-ray or a CT. Raises BadInput."""
        if modality == "ct":
            return ct_records.read(path, self.grid, note, self.scans).fields
        pixels = xrays.read_film(path, note, by_largest=self.by_largest).pixels
        return {"image": geometry.canonical_xray(pixels, self.grid.film_size)}

    def xray(self, path: Path) -> np.ndarray:
        """An X-ray as uint8 (y, x). Raises BadInput."""
        return self.fields(path, "xray")["image"]

    def volume(self, path: Path) -> np.ndarray:
        """A CT of a file or a series as int16 HU (z, y, x). Raises BadInput."""
        return self.fields(path, "ct")["volume"]

    def caption(self, report: str) -> str:
        """What training would read of a raw report; all of it, cleaned, where its sections are not there."""
        return sections.select(report, self.captions)


PLAIN = Reading()


def of_contract(contract: Mapping[str, Any]) -> Reading:
    """How the files of a set were read, from its contract or from that of a network's training data.

    Raises:
        UserError: the contract, perhaps a stranger's, names choices that no set can have.
    """
    grid, source = record_grid.of_contract(contract), contract.get("source", {})
    try:
        axes, fewest = source.get("assumed_axes", ""), source.get("min_slices", volumes.MIN_SLICES)
        if type(axes) is not str or type(fewest) is not int:  # True is an int
            raise TypeError
        scans = Options(scans=volumes.Rules(axes, fewest)).scans
        by_largest = source.get("options", {}).get("greys") == "largest"
        return Reading(grid, scans, by_largest, _captions(source))
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(
            "the contract of the set names choices that no set has (source.assumed_axes, min_slices, sections or "
            "reports): bring back a copy of the set or build it again"
        ) from error


def _captions(source: Mapping[str, Any]) -> sections.Policy | None:
    """The policy of a named set, or a manifest's sections; a report that lacks them is taken whole in either case."""
    facts = source.get("reports") or source
    order = tuple(facts.get("order", source.get("sections", ())))
    if not order:
        return None
    known = {field.name for field in dataclasses.fields(sections.Policy)} - {"order", "empty"}
    # Sets that name no rule were built when there was one alone.
    chosen = {"headings": sections.MIT_LCP} | {name: facts[name] for name in known if name in facts}
    return sections.Policy(order=order, empty="whole", **chosen)
