"""Which checkpoint: RUN is a run's newest, RUN:best its best in validation, RUN:600 that of step 600; or an export.

An export is a folder, or a model of the Hugging Face hub: org/name, org/name@revision. Either may lie in a bucket:
gs://bucket/RUN:best, s3://bucket/export.
"""

import functools
import logging
import math
import pathlib
from typing import NamedTuple

from data import members
from data.buckets import mirror
from data.buckets.store import is_url
from data.errors import UserError
from unimedi_jax import checkpoint_reading, validations
from unimedi_jax.config import loaded, paths
from unimedi_jax.convert import checksums, hub

LOG = logging.getLogger(__name__)
BEST = "best"
# What is read of an export. Of its other files, PyTorch's module among them, nothing is fetched.
FACTS, WEIGHTS, REPORT = "unimedi.json", "unimedi.safetensors", "report"
EXPORTED = (FACTS, WEIGHTS, f"{REPORT}/*", "contract.json", members.FILE, checksums.FILE)


class Address(NamedTuple):
    """A run or an export, and which of the run's checkpoints."""

    place: pathlib.Path
    which: str = ""  # "" the newest, "best", or a step


class Choice(NamedTuple):
    """A checkpoint of a run and why it is the one."""

    step: int | None  # None: the newest that is whole
    reason: str


def parse(text: str | pathlib.Path) -> Address:
    """The parts of what a user writes; what lies in a bucket or on the hub is fetched.

    A folder's own colon is part of its name.

    Raises:
        UserError: nothing is named, what stands behind the colon is neither "best" nor a step, or the hub or the bucket
            does not have or show what is named.
    """
    if not str(text):
        raise UserError("config.checkpoint is empty: name a run's folder, as in --config.checkpoint=runs/pretrain-demo")
    if is_url(str(text)):
        url, which = paths.checkpoint(str(text))
        return Address(mirror.fetch(url), which)
    whole = pathlib.Path(text).expanduser()
    if not whole.exists() and hub.is_id(str(text)):
        return Address(_fetch(str(text)))
    front, colon, which = str(text).rpartition(":")
    if not colon or whole.exists():
        return Address(whole)
    place = pathlib.Path(front).expanduser()
    if which == BEST or which.isdecimal():
        return Address(place, which)
    if place.is_dir():
        raise UserError(f"config.checkpoint {text}: after the colon comes best or a step, as in {front}:600")
    return Address(whole)


@functools.cache  # weights, tokenizer and members of one process are of one commit
def _fetch(name: str) -> pathlib.Path:
    try:
        place = hub.snapshot(name, EXPORTED)
    except hub.HubError as error:
        raise UserError(f"no run and no export at {name}, and {error}") from error
    if not (place / FACTS).is_file():
        raise UserError(f"the hub's {name} is no export of this project, which has a {FACTS}: choose another model")
    return place


def choose(address: Address) -> Choice:
    """The checkpoint of a run that an address names.

    Raises:
        UserError: the best is asked for, and no checkpoint that is left was validated.
    """
    if not address.which:
        return Choice(None, "the newest")
    if address.which != BEST:
        return Choice(int(address.which), "as named")
    config = checkpoint_reading.meta(address.place).get("config")
    loaded.check(config, str(address.place))
    metric, scores, _ = validations.ranking(address.place, config["checkpoint"]["best"])
    left = checkpoint_reading.steps(address.place)
    defined = {step: scores[step] for step in left if scores.get(step, -math.inf) > -math.inf}
    if not defined:
        raise UserError(
            f"{address.place}:{BEST}: none of the checkpoints that are left was validated by {metric}; "
            f"name one of {', '.join(f'{address.place}:{step}' for step in left)}"
        )
    step = max(defined, key=lambda step: (defined[step], step))
    return Choice(step, f"the best by {metric} ({defined[step]:.3f})")


def shown(place: pathlib.Path) -> str:
    """A folder as a person names it: on the hub and in a bucket by its address there."""
    return hub.label(place) or mirror.named(str(place))


def log(address: Address, step: int, steps: int, reason: str) -> None:
    """One line that says what was taken."""
    LOG.info("%s: step %d of %d, %s", shown(address.place), step, steps, reason)
