"""Which checkpoint: RUN is a run's newest, RUN:best its best in validation, RUN:600 that of step 600; or an export."""

import logging
import math
import pathlib
from typing import Any, NamedTuple

from data.errors import UserError
from unimedi_jax import checkpoint, writers
from unimedi_jax.config import loaded

LOG = logging.getLogger(__name__)
BEST = "best"


class Address(NamedTuple):
    """A run or an export, and which of the run's checkpoints."""

    place: pathlib.Path
    which: str = ""  # "" the newest, "best", or a step


class Choice(NamedTuple):
    """A checkpoint of a run and why it is the one."""

    step: int | None  # None: the newest that is whole
    reason: str


def parse(text: str | pathlib.Path) -> Address:
    """The parts of what a user writes. A folder that has a colon in its own name is taken as it is.

    Raises:
        UserError: nothing is named, or what stands behind the colon is neither "best" nor a step.
    """
    if not str(text):
        raise UserError("config.checkpoint is empty: name a run's folder, as in --config.checkpoint=runs/pretrain-demo")
    whole = pathlib.Path(text).expanduser()
    front, colon, which = str(text).rpartition(":")
    if not colon or whole.exists():
        return Address(whole)
    place = pathlib.Path(front).expanduser()
    if which == BEST or which.isdecimal():
        return Address(place, which)
    if place.is_dir():
        raise UserError(f"config.checkpoint {text}: behind the colon stands best or a step, as in {front}:600")
    return Address(whole)


def choose(address: Address) -> Choice:
    """The checkpoint of a run that an address names.

    Raises:
        UserError: the best is asked for, and no checkpoint that is left was validated.
    """
    if not address.which:
        return Choice(None, "the newest")
    if address.which != BEST:
        return Choice(int(address.which), "as named")
    config = checkpoint.meta(address.place).get("config")
    loaded.check(config, str(address.place))
    metric = config["checkpoint"]["best"]
    left = checkpoint.steps(address.place)
    scores = {line["step"]: line.get(f"val/{metric}") for line in writers.lines(address.place)}
    defined = {step: scores[step] for step in left if _is_number(scores.get(step))}
    if not defined:
        raise UserError(
            f"{address.place}:{BEST}: none of the checkpoints that are left was validated by {metric}; "
            f"name one of {', '.join(f'{address.place}:{step}' for step in left)}"
        )
    step = max(defined, key=lambda step: (defined[step], step))
    return Choice(step, f"the best by {metric} ({defined[step]:.3f})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def log(address: Address, step: int, steps: int, reason: str) -> None:
    """One line that says what was taken."""
    LOG.info("%s: step %d of %d, %s", address.place, step, steps, reason)
