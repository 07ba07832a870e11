"""What the user decides of a manifest's content where files and sources leave it open."""

import dataclasses
import re

import numpy as np

from data import errors
from data.readers import volumes
from data.reports import text

UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}  # what the label -1 becomes
SECTIONS = ("findings", "impression")
AXES = re.compile("(?=.*[LR])(?=.*[PA])(?=.*[SI])[LRPASI]{3}")


@dataclasses.dataclass(frozen=True)
class Choices:
    """Settings of `configs/build.py:manifest` of the same names; all of them go into the contract."""

    uncertain: str = "ignore"  # one of UNCERTAIN
    language: str = ""  # of text.WORDS: reports of another one are left out
    sections: tuple[str, ...] = ()  # of a report, in the order wanted; none: all of it
    keep_ids: bool = False  # patients as the CSV names them, not hashed
    scans: volumes.Rules = volumes.STRICT

    def __post_init__(self) -> None:
        """Raises UserError for what is none of the choices."""
        if self.uncertain not in UNCERTAIN:
            raise errors.UserError(f"config.uncertain is {self.uncertain!r}: one of {', '.join(UNCERTAIN)}")
        if self.language not in ("", *text.WORDS):
            raise errors.UserError(f"config.language is {self.language!r}: {' or '.join(text.WORDS)}, or empty for all")
        if not set(self.sections) <= set(SECTIONS):
            raise errors.UserError(
                f"config.sections is {','.join(self.sections)!r}: of {', '.join(SECTIONS)}, or empty"
            )
        if self.scans.assume and not AXES.fullmatch(self.scans.assume):
            raise errors.UserError(f"config.assume is {self.scans.assume!r}: three letters such as LPS, or empty")
        if self.scans.min_slices < 2:
            raise errors.UserError(f"config.min_slices is {self.scans.min_slices}: at least 2")


DEFAULT = Choices()
