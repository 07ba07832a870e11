"""Compares two preprocessing contracts: of what a network was trained on, and of its input now."""

import logging
from collections.abc import Mapping
from typing import Any

from data.errors import UserError

LOG = logging.getLogger(__name__)
FILE = "contract.json"  # beside the records of a set
PREPROCESSING = ("format", "records")  # what all inputs of one network must agree on
SAME_DATA = ("content_sha256", "labels", "tokenizer")  # what must also be unchanged when a run is resumed
SHARING = "pictures_sharing_a_report"  # of training, where there are any: pictures of one patient under one report
SHOWN = 5


def check(trained: Mapping[str, Any], current: Mapping[str, Any], *, where: str, same_data: bool = False) -> None:
    """Refuses input that was made by other rules than a network's training data.

    Args:
        trained: contract of a set that the network was trained on.
        current: contract of its input now.
        where: what `current` belongs to, for the message.
        same_data: whether the records must be the same too.

    Raises:
        UserError: they differ; names the fields. Other library versions are only logged: they may round differently.
    """
    fields = (*PREPROCESSING, *(SAME_DATA if same_data else ()))
    then, now = (flat({name: contract.get(name) for name in fields}) for contract in (trained, current))
    changed = [
        f"{field} was {_short(then.get(field))} in training, is {_short(now.get(field))} now"
        for field in sorted(then.keys() | now.keys())
        if then.get(field) != now.get(field)
    ]
    if changed:
        remedy = ", or --config.resume.force=True to go on with it" if same_data else ""
        more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UserError(
            f"{where} breaks the contract of what the network was trained on ({'; '.join(changed[:SHOWN])}{more}): "
            f"build it with the code and settings of the training set, or train anew{remedy}"
        )
    before, after = (contract.get("libraries", {}) for contract in (trained, current))
    # A library that no longer has a part in it is no difference.
    others = [f"{n} {before[n]} then, {after[n]} now" for n in before.keys() & after.keys() if before[n] != after[n]]
    if others:
        LOG.warning("%s was made with other libraries than the training set: %s", where, "; ".join(others))


def check_resumed(trained: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> None:
    """The same for each set of a resumed run, which needs the records that it began with. Raises UserError."""
    for name, contract in current.items():
        if name not in trained:
            raise UserError(f"the run was not trained on the set {name}, but on {', '.join(trained)}")
        check(trained[name], contract, where=f"the set {name}", same_data=True)


def flat(tree: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """A nested dict as one of dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{start}{key}.") if isinstance(value, Mapping) and value else {start + key: value}
    return leaves


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
