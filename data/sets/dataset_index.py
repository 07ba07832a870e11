"""What the module of a public set returns: its X-rays and CTs by its tables and folders, without reading pixels."""

import ast
import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError, check_choice
from data.manifest import samples
from data.readers import table as table_reader
from data.readers import volumes
from data.reports import sections
from data.source import Rejected

SHOWN = 3
CARRIED_OVER = "unchanged"  # BIMCV's label for "as in the study before"
PLAIN = functools.partial(samples.pixels, rules=volumes.STRICT)


@dataclasses.dataclass(frozen=True)
class Item:
    """One X-ray or CT as a set's tables name it."""

    path: str  # relative to the set's root
    modality: str
    patient: str
    split: str = ""  # empty: by a stable hash of the patient
    report: str | Mapping[str, str] = ""  # raw, or its sections by name
    report_id: str = ""  # its key in a table of translations
    labels: tuple[float, ...] = ()
    mask: str = ""  # a file, like `path`
    study: str = ""  # what its patient's pictures of one examination share, under one report
    view: str = ""  # of an X-ray, as the set names it
    series: str = ""  # of a CT
    member: str = ""  # which of a file's pictures it is, where one file holds several
    annotation: Any = None  # of the image, by the set's tables: goes to `DatasetIndex.read` with the sample


@dataclasses.dataclass(frozen=True)
class DatasetIndex:
    """A public set, ready for sets/source.py."""

    items: Sequence[Item]
    labels: tuple[str, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # compared with the set's EXPECTED
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by the protocol: reason -> count
    published: Mapping[str, int] = dataclasses.field(default_factory=dict)  # sizes of the chosen splits
    read: samples.Reader = PLAIN  # the pixels and annotations of a sample
    annotations: tuple[str, ...] = ()  # the fields of Source.annotations
    organs: tuple[str, ...] = ()
    _: dataclasses.KW_ONLY
    headings: str = sections.KNOWN_WORDS  # what counts as a heading of its raw reports
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for the contract
    rejected: Sequence[Rejected] = ()
    leaks: bool = False  # the split has patients on two sides, as has the published code that it reproduces


def find(root: Path, *names: str) -> Path:
    """The first of these files or folders below `root`, a .csv or .tsv also as .gz. Raises UserError for none."""
    if not root.is_dir():
        raise UserError(f"config.source {root} is not a folder: name the root of the download")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.exists():
                return path
    folder = (root / names[0]).parent
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(Path(names[0]).name, present, SHOWN, 0.5)
    hint = f" (there is {', '.join(near)})" if near else ""
    raise UserError(
        f"{root} has no {' or '.join(names)}{hint}: data/README.md links to the tree that this set must have"
    )


def folders(root: Path, *patterns: str) -> list[Path]:
    """The folders below `root` that match any of the glob patterns, by pattern and name, none twice."""
    matches = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return list(dict.fromkeys(path for path in matches if path.is_dir()))


def table(
    root: Path, names: str | Iterable[str], columns: Sequence[str], delimiter: str = ",", optional: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The `columns` of the first of these tables below `root`, and of the `optional` ones those that it has.

    Raises UserError.
    """
    path = find(root, *([names] if isinstance(names, str) else names))
    return table_reader.read_columns(path, columns, delimiter, optional)[1]


def inner(root: Path, name: str) -> Path:
    """The folder of that name below `root`, which some archives have and some copies lack."""
    return root / name if (root / name).is_dir() else root


def check_option(name: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError unless `config.options.<name>` is one of `known`."""
    check_choice(f"options.{name}", value, known)


def words(value: str) -> tuple[str, ...]:
    """The parts of a comma-separated setting."""
    return tuple(filter(None, (part.strip() for part in value.split(","))))


def drawn(items: Sequence[Any], **sizes: float) -> tuple[Sequence[Any], Sequence[Any]]:
    """Training items and the others, as MGCA's code draws them: scikit-learn's split with seed 0."""
    from sklearn.model_selection import train_test_split  # takes a second or two, which other sets do not need

    return train_test_split(items, random_state=0, **sizes)


def split_in_three(items: Sequence[Any], test_size: float) -> dict[Any, str]:
    """The split of every item in MGCA's code: what is not for training is halved into test and val."""
    train, rest = drawn(items, test_size=test_size)
    test, val = drawn(rest, test_size=0.5)
    return {item: split for split, part in (("train", train), ("val", val), ("test", test)) for item in part}


def named(cell: str, names: Sequence[str]) -> tuple[float, ...]:
    """1 for each of `names` that a cell of BIMCV's tables holds, else 0; NaN where it says "unchanged".

    The cell holds a Python list or, in some releases, names separated by tabs.
    """
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = re.split(r"[\t,;]", cell.strip("[]"))
    listed = listed if isinstance(listed, (list, tuple, set)) else [listed]
    findings = {str(name).strip(" '\"").lower() for name in listed}
    return tuple(float("nan") if CARRIED_OVER in findings else float(name.lower() in findings) for name in names)


def label(value: str, uncertain: float, blank: str = "unknown") -> float:
    """1, 0 or blank, as CheXpert's tables write them; -1 becomes `uncertain`, a blank unknown or 0 ("negative")."""
    value = value.removesuffix(".0")
    return uncertain if value == "-1" else float(value or ("nan" if blank == "unknown" else "0"))
