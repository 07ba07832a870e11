"""Prompts of one's own, by the setting `prompts` of a job: a file, or the name of a published pair.

A `.json` file maps labels to prompts; the second form only asserts, and is scored against the other labels:

    {"nodule": {"positive": ["There is a nodule."], "negative": ["No nodule."]},
     "mass": ["There is a mass."]}

A `.csv` file has the columns `label`, `positive` and, where it denies, `negative`, and as many rows a label as it has
prompts; blank cells are passed over. Labels of a set that the file does not name keep the set's prompts.
"""

import collections
import difflib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import UserError
from data.readers import table
from data.reports import prompts
from data.reports.prompts import Pair

SIDES = ("positive", "negative")
LARGEST = 1 << 20  # bytes of a file
SHOWN = 80  # letters of what a message quotes
FORM = 'it maps labels to {"positive": [sentences], "negative": [sentences]}, or to sentences that assert'


def of_set(setting: str, contract: Mapping[str, Any]) -> dict[str, Pair]:
    """Prompts by label for the labels of a set, from its contract where `setting` leaves them as they are.

    Raises:
        UserError: as `read` does.
    """
    labels, own = contract["labels"], contract["prompts"]
    if setting in prompts.TEMPLATES:
        return {label: prompts.of_template(setting, label) for label in labels}
    chosen = {**own, **(read(setting) if setting else {})}
    return {label: chosen[label] for label in labels if chosen.get(label)}


def check(setting: str, labels: Iterable[str]) -> None:
    """Whether the setting means something and names labels that some set has.

    Raises:
        UserError: as `read` does, or the file names a label that is none of `labels`.
    """
    if not setting or setting in prompts.TEMPLATES:
        return
    labels = list(dict.fromkeys(labels))
    for label in read(setting):
        if label not in labels:
            close = difflib.get_close_matches(label, labels, 1)
            known = ", ".join(labels) or "none"
            raise UserError(
                f"config.prompts: {setting} names the label {_short(label)}, which the data lack; "
                + (f"did you mean {close[0]!r}? " if close else "")
                + f"Their labels: {known}"
            )


def read(setting: str) -> dict[str, Pair]:
    """The prompts of a file by label, whatever the labels; a label whose "negative" is empty only asserts.

    The name of a published pair gives it for the labels that it was published with: CT-RATE's 18, CheXpert's 14.

    Raises:
        UserError: no such file, no UTF-8, no JSON or CSV of this form, or a label without a prompt that asserts it.
    """
    if setting in prompts.TEMPLATES:
        from data.sets import chexpert, ct_rate  # with the readers of all sets, which no other job needs

        labels = {"ct_clip": ct_rate.LABELS, "chexzero": chexpert.LABELS}[setting]
        return {label: prompts.of_template(setting, label) for label in labels}
    path = pathlib.Path(setting).expanduser()
    if path.suffix.lower() not in (".json", ".csv"):
        names = ", ".join(prompts.TEMPLATES)
        raise UserError(f"config.prompts is a .json or .csv file, or one of {names}, not {_short(setting)}")
    if not path.is_file():
        raise UserError(f"config.prompts: there is no file {path}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} has more than {LARGEST} bytes: prompts are a few sentences a label")
    pairs = _of_json(path) if path.suffix.lower() == ".json" else _of_csv(path)
    if not pairs:
        raise UserError(f"{path} holds no prompts: name a label and at least one sentence that asserts it")
    for label, pair in pairs.items():
        if not pair["positive"]:
            raise UserError(
                f"{path}: the label {_short(label)} has no positive prompt, a sentence that asserts it: add one"
            )
    return pairs


def _of_json(path: pathlib.Path) -> dict[str, Pair]:
    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = collections.Counter(name for name, _ in items)
        if repeated := next((name for name, count in counts.items() if count > 1), None):
            raise UserError(f"{path} names {_short(repeated)} twice: join the two")
        return dict(items)

    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"config.prompts: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it again as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; lists in lists in lists
        raise UserError(f"{path} is JSON, but not of prompts: {FORM}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one object: {FORM}")
    return {label: _pair(value, f"{path}, {_short(label)}") for label, value in content.items()}


def _short(value: Any) -> str:
    """What a file says, as it may stand in a message of one line."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."


def _pair(value: Any, where: str) -> Pair:
    sides = value if isinstance(value, dict) else {"positive": value}
    if unknown := set(sides) - set(SIDES):
        raise UserError(f"{where}: {_short(min(unknown))} is neither positive nor negative")
    pair = {side: sides.get(side, []) for side in SIDES}
    for side, sentences in pair.items():
        if not isinstance(sentences, list) or not all(isinstance(one, str) and one.strip() for one in sentences):
            raise UserError(f"{where}: {side} must be a list of sentences, none of them blank")
    return pair


def _of_csv(path: pathlib.Path) -> dict[str, Pair]:
    header, rows = table.read_spreadsheet(path)
    names = [name.strip().lower() for name in header]
    if not {"label", "positive"} <= set(names) <= {"label", *SIDES} or len(set(names)) < len(names):
        raise UserError(
            f"{path} must have the columns label, positive and, where it denies, negative, not {_short(header)}"
        )
    pairs: dict[str, Pair] = {}
    for number, cells in enumerate(rows, start=1):
        row = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        if len(cells) != len(names) or not row["label"]:
            problem = f"has {len(cells)} cells for {len(names)} columns" if len(cells) != len(names) else "has no label"
            raise UserError(f"{path}, row {number}, {problem}: put sentences with commas in double quotes")
        pair = pairs.setdefault(row["label"], {side: [] for side in SIDES})
        for side in SIDES:
            pair[side] += filter(None, [row.get(side)])
    return pairs
