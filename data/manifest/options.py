"""What the user decides where a manifest or its files leave it open."""

import dataclasses
import re

import numpy as np

from data import record_grid
from data.errors import UserError, check_choice
from data.readers import volumes
from data.reports import text
from data.reports.sections import BODIES, Policy

BLANK = ("unknown", "negative")  # what a label that a set leaves blank means: not mentioned, or absent
UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}  # what the label -1 becomes
AXES = re.compile("(?=.*[LR])(?=.*[PA])(?=.*[SI])[LRPASI]{3}")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of the same names in `configs/build.py:manifest`; all of them go into the contract."""

    uncertain: str = "ignore"  # one of UNCERTAIN
    language: str = ""  # one of text.WORDS: reports in another language are left out; empty: any
    sections: tuple[str, ...] = ()  # of a report, in this order; empty: the whole report
    keep_ids: bool = False  # store patients as the CSV names them, not hashed
    scans: volumes.Rules = volumes.STRICT
    grid: record_grid.RecordGrid = record_grid.DEFAULT

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        check_choice("uncertain", self.uncertain, UNCERTAIN)
        text.check_language("language", self.language)
        if not set(self.sections) <= set(BODIES):
            raise UserError(f"config.sections is {','.join(self.sections)!r}: of {', '.join(BODIES)}, or empty")
        if self.scans.assume and not AXES.fullmatch(self.scans.assume):
            raise UserError(f"config.assume is {self.scans.assume!r}: three letters such as LPS, or empty")
        if self.scans.min_slices < 2:
            raise UserError(f"config.min_slices is {self.scans.min_slices}: at least 2")

    @property
    def captions(self) -> Policy | None:
        """What is taken of a report; None: all of it. A report without these sections is taken whole."""
        return Policy(order=self.sections, empty="whole") if self.sections else None


DEFAULT = Options()
