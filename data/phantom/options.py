"""Which patients a phantom has, beyond their number: for tests of scarce CTs, of slices and of a shared space."""

import dataclasses

from data.errors import UserError, check_choice
from data.source import SPLITS

NODULES = ("by_volume", "by_height")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of the same names in `configs/build.py:phantom`; the defaults are those of the built-in set."""

    train_xrays: int | None = None  # at most so many training X-rays, the first ones; None: all
    train_cts: int | None = None
    both: int = 0  # patients with an X-ray and a CT, beside the others; they belong to test, or to `split`
    split: str = ""  # the split of all patients; empty: 8 of 10 train, 1 validates, 1 tests
    nodules: str = "by_volume"  # one of NODULES
    views: int = 1  # of an X-ray's patient: 2 adds a lateral film to each frontal one, in the same study

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        check_choice("split", self.split, ("", *SPLITS))
        check_choice("nodules", self.nodules, NODULES)
        if self.views not in (1, 2):
            raise UserError(f"config.views is {self.views}: 1 for frontal X-rays, 2 for a lateral beside each")
        counts = {"train_xrays": self.train_xrays, "train_cts": self.train_cts, "both": self.both}
        for name, count in counts.items():
            if count is not None and count < 0:
                raise UserError(f"config.{name} is {count}: give a number of patients, 0 or more")

    @property
    def changed(self) -> dict[str, int | str]:
        """The settings that differ from the built-in set's."""
        return {name: value for name, value in vars(self).items() if value != getattr(DEFAULT, name)}


DEFAULT = Options()
