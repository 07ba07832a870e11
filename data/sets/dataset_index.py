"""What a builder of a public set says of it: its films and CTs by its tables and folders, before any pixel is read."""

import csv
import dataclasses
import difflib
import functools
import gzip
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import errors
from data.manifest import samples
from data.readers import volumes
from data.source import Rejected

LOG = logging.getLogger(__name__)
SHOWN = 3
PLAIN = functools.partial(samples.pixels, rules=volumes.STRICT)


@dataclasses.dataclass(frozen=True)
class Item:
    """One film or CT as a set's tables name it."""

    path: str  # relative to the set's root
    modality: str
    patient: str
    split: str = ""  # nothing: by a stable hash of the patient
    report: str | Mapping[str, str] = ""  # raw, or its sections by name
    report_id: str = ""  # what a table of translations knows the report by
    labels: tuple[float, ...] = ()
    mask: str = ""  # a file, like `path`
    truth: Any = None  # goes to the worker with the case


@dataclasses.dataclass(frozen=True)
class Listing:
    """A public set, ready for sets/source.py."""

    items: Sequence[Item]
    labels: tuple[str, ...] = ()
    read: samples.Reader = PLAIN  # the pixels and the truth of a case
    truth: frozenset[str] = frozenset()
    organs: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for the contract
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # to hold against the set's EXPECTED
    published: Mapping[str, int] = dataclasses.field(default_factory=dict)  # sizes of the splits asked for
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by the protocol, by reason
    rejected: Sequence[Rejected] = ()
    leaks: bool = False  # the split asked for has patients on two sides, as the code it reproduces
    for_training: bool = True


def find(root: Path, *names: str) -> Path:
    """The first of these files or folders below `root`, a .csv or .tsv also as .gz. Raises UserError for none."""
    if not root.is_dir():
        raise errors.UserError(f"config.source {root} is no folder: name the root of the download")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.exists():
                return path
    wanted = " or ".join(names)
    folder = (root / names[0]).parent
    near = difflib.get_close_matches(Path(names[0]).name, _names(folder), SHOWN, 0.5)
    hint = f" (there is {', '.join(near)})" if near else ""
    raise errors.UserError(f"{root} has no {wanted}{hint}: data/README.md shows the tree that this set must have")


def table(path: Path, required: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The required columns of a CSV or TSV, packed or not, row by row, blanks around names and values gone.

    Raises UserError for a file that cannot be read or lacks one of them.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise errors.UserError(f"{path} cannot be read ({type(error).__name__}): copy or download it again") from error
    text = content.decode("utf-8-sig", errors="replace")
    if unknown := text.count("\ufffd"):
        LOG.warning("%s is not UTF-8 throughout: %d letters unknown", path, unknown)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if missing := [name for name in required if name not in header]:
            raise errors.UserError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header[:20])}")
        places = [(name, header.index(name)) for name in required]
        return [{name: fields[at].strip() for name, at in places} for fields in lines if fields]
    except csv.Error as error:
        raise errors.UserError(f"{path} is not valid CSV at line {lines.line_num}: {error}") from error
    except IndexError as error:
        raise errors.UserError(f"{path} has too few fields in line {lines.line_num}: download it again") from error


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """The value of `config.options.<name>` if it is a known one. Raises UserError."""
    if value not in known:
        raise errors.UserError(f"config.options.{name} is {value!r}: one of {', '.join(known)}")
    return value


def words(value: str) -> tuple[str, ...]:
    """The parts of a comma-separated setting."""
    return tuple(filter(None, (part.strip() for part in value.split(","))))


def drawn(items: Sequence[Any], **sizes: float) -> tuple[Sequence[Any], Sequence[Any]]:
    """Training items and the others, as MGCA's code draws them: scikit-learn's split of seed 0."""
    from sklearn.model_selection import train_test_split  # a second or two, which other sets need not wait

    return train_test_split(items, random_state=0, **sizes)


def label(value: str, uncertain: float) -> float:
    """1, 0 or blank (unknown) as tables of CheXpert's kind write them; -1 becomes `uncertain`."""
    value = value.removesuffix(".0")
    return uncertain if value == "-1" else float(value or "nan")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
