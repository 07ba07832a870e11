"""Compares two preprocessing contracts: of what a network was trained on, and of its input now."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import json_files
from data.errors import UserError

LOG = logging.getLogger(__name__)
FILE = "contract.json"  # beside the records of a set
PREPROCESSING = ("format", "records")  # what all inputs of one network must agree on
SAME_DATA = ("content_sha256", "labels", "tokenizer")  # what must also be unchanged when a run is resumed
INPUTS = ("xray", "ct", "report")  # of the records what networks take in; labels and masks are of evaluations alone
SHARING = "pictures_sharing_a_report"  # of training, where there are any: pictures of one patient under one report
GRID = (  # entries that differ between sets of different grids alone
    *(f"records.xray.{name}" for name in ("image", "rules.resize")),
    *(f"records.ct.{name}" for name in ("volume", "spacing_mm", "crop_to", "rules.grid", "rules.crop")),
)
SHOWN = 5
# What each entry of a contract is; older ones lack some.
KINDS = {"format": int, "name": str, "labels": list, "truth": list, "rejected": int} | dict.fromkeys(
    ("prompts", "splits", "records", "source", "tokenizer", "libraries", "notes"), dict
)
NEEDED = ("labels", "prompts", "truth", "records", "source")
ADVICE = "bring back a copy of the set or build it again"


def read(folder: Path) -> dict[str, Any]:
    """The contract of the set in a folder.

    Raises:
        UserError: it cannot be read, or is no contract.
    """
    path = folder / FILE
    content = json_files.read_object(path, ADVICE)
    if problem := flaw(content):
        raise UserError(f"{path} is not the contract of a set ({problem}): {ADVICE}")
    return content


def flaw(content: Any, needed: Sequence[str] = NEEDED) -> str:
    """What makes something no contract of a set, with the entries `needed`; "" where nothing does."""
    if not isinstance(content, dict):
        return "no JSON object"
    if lacking := [name for name in needed if name not in content]:
        return f"it lacks {', '.join(lacking)}"
    wrong = [name for name, kind in KINDS.items() if name in content and type(content[name]) is not kind]
    if wrong:
        return f"{wrong[0]} is of another kind"
    if not all(isinstance(counts, dict) for counts in content.get("splits", {}).values()):
        return "splits are no counts"
    labels, sides = content.get("labels", []), list(content.get("prompts", {}).values())
    if not _are_texts(labels) or not _are_texts(content.get("truth", [])) or len(set(labels)) < len(labels):
        return "labels or truth are no list of different names"
    if not all(isinstance(pair, dict) and all(map(_are_texts, pair.values())) for pair in sides):
        return "prompts are no lists of texts"
    return ""


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def same(trained: Mapping[str, Any], current: Mapping[str, Any], *, grids: bool = True) -> bool:
    """Whether two sets' records were made by one preprocessing; without `grids` whatever the sizes of their records."""
    return not _changed(trained, current, PREPROCESSING, grids=grids)


def check(
    trained: Mapping[str, Any], current: Mapping[str, Any], *, where: str, same_data: bool = False, grids: bool = True
) -> None:
    """Refuses input that was made by other rules than a network's training data.

    Args:
        trained: contract of a set that the network was trained on.
        current: contract of its input now.
        where: what `current` belongs to, for the message.
        same_data: whether the records must be the same too.
        grids: whether the records must have one size, where what is cut out of them has one in any case.

    Raises:
        UserError: they differ; names the fields. Other library versions are only logged: they may round differently.
    """
    fields = (*PREPROCESSING, *(SAME_DATA if same_data else ()))
    changed = _changed(trained, current, fields, grids=grids)
    if changed:
        remedy = ", or --config.resume.force=True to resume with it" if same_data else ""
        more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UserError(
            f"{where} was preprocessed by other rules than the training set ({'; '.join(changed[:SHOWN])}{more}): "
            f"build it with the code and settings of the training set, or train anew{remedy}"
        )
    before, after = (contract.get("libraries", {}) for contract in (trained, current))
    # A library that no longer has a part in it is no difference.
    others = [f"{n} {before[n]} then, {after[n]} now" for n in before.keys() & after.keys() if before[n] != after[n]]
    if others:
        LOG.warning("%s was made with other libraries than the training set: %s", where, "; ".join(others))


def check_inputs(trained: Mapping[str, Any], current: Mapping[str, Any], *, where: str, grids: bool = True) -> None:
    """`check` of the rules of pictures and reports alone. Raises UserError."""
    check(_of_inputs(trained), _of_inputs(current), where=where, grids=grids)


def _of_inputs(whole: Mapping[str, Any]) -> dict[str, Any]:
    return {**whole, "records": {name: rule for name, rule in whole["records"].items() if name in INPUTS}}


def _changed(
    trained: Mapping[str, Any], current: Mapping[str, Any], fields: Sequence[str], *, grids: bool
) -> list[str]:
    """The differing entries of these fields, each as words."""
    then, now = (flat({name: contract.get(name) for name in fields}) for contract in (trained, current))
    return [
        f"{field} was {_short(then.get(field))} in training, is {_short(now.get(field))} now"
        for field in sorted(then.keys() | now.keys())
        if then.get(field) != now.get(field) and (grids or field not in GRID)
    ]


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
