"""A CSV of one's own films and CTs -> Source; a bad row is left out with a reason, and never stops the others."""

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from data import films, geometry, text, volumes
from data.files import LFS_MAGIC, BadInput
from data.source import MODALITIES, SPLITS, Example, Rejected, Row, Source
from unimedi_jax import errors

REQUIRED = ("path", "modality", "report", "patient")
OPTIONAL = ("split", "mask")
LABEL = "label:"
LABEL_VALUES = {"1": 1.0, "0": 0.0, "-1": np.nan, "": np.nan}  # -1 is uncertain
LESION_OF_ANY_KIND = 254
UNANNOTATED = 255
TRAIN_SHARE, VAL_SHARE = 0.8, 0.1

CONTRACT = {
    "id": "first 16 hex digits of the sha256 of the path as the CSV gives it",
    "labels": "1 and 0 are kept, -1 (uncertain) and blank (unknown) become NaN",
    "split": f"by patient; not given: sha256 of the patient, {TRAIN_SHARE:.0%} train, {VAL_SHARE:.0%} val",
    "mask": f"whatever is not 0 is a lesion of unstated kind, {LESION_OF_ANY_KIND}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a worker needs to read one row, and what tells that its files have not changed."""

    file: Path = dataclasses.field(repr=False)  # `repr` tells sources apart, wherever they lie
    mask: Path | None = dataclasses.field(repr=False)
    patient: str
    report: str
    labels: tuple[float, ...]
    state: str  # sizes and times of the row's files


def read(manifest: Path) -> Source:
    """The source that a CSV describes. Raises UserError for a CSV without the columns it needs, or that is none."""
    header, table = _table(manifest)
    names = [column[len(LABEL) :].strip() for column in header if column.startswith(LABEL)]
    rejected: list[Rejected] = []
    rows: list[Row] = []
    seen: dict[Path, dict[str, str]] = {}
    uncertain = dict.fromkeys(names, 0)
    for number, fields in table:
        row = dict(zip(header, (field.strip() for field in fields), strict=False))
        try:
            if len(fields) != len(header):
                raise BadInput("wrong_fields", f"{len(fields)} fields, the header has {len(header)}")
            case, split = _case(row, names, manifest.parent)
            earlier = seen.setdefault(case.file, row)
            if earlier is not row:
                raise BadInput(*_repeated(earlier, row))
        except BadInput as error:
            rejected.append(Rejected(number, row.get("path", ""), str(error)))
            continue
        for name in names:
            uncertain[name] += _number(row[LABEL + name]) == "-1"
        key = hashlib.sha256(row["path"].encode()).hexdigest()[:16]
        rows.append(Row(key, row["modality"].lower(), split, number, info=case, path=row["path"]))
    rows, leaked = _split_by_patient(rows)
    masks = any(row.info.mask for row in rows)
    return Source(
        labels=tuple(names),
        prompts={name: prompts(name) for name in names},
        rows=rows,
        convert=functools.partial(convert, masks=masks),
        truth=frozenset({"lesion_mask"} if masks else ()),
        contract={"kind": "manifest", **CONTRACT, "uncertain": uncertain},
        rejected=tuple(sorted((*rejected, *leaked), key=lambda one: one.row)),
    )


def prompts(name: str) -> dict[str, list[str]]:
    """Sentences that assert and deny a label; the two lists match one to one."""
    words = name.replace("_", " ").strip().lower()
    return {
        "positive": [words, f"there is {words}", f"findings of {words}"],
        "negative": [f"no {words}", f"there is no {words}", f"no findings of {words}"],
    }


def convert(row: Row, *, masks: bool) -> Example | Rejected:
    """Reads a row's files; with `masks` every example has one, unannotated where the row gives none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the readers' libraries warn of what is handled here
            pixels = _film(row.info, masks) if row.modality == "xray" else _volume(row.info, masks)
    except BadInput as error:
        return Rejected(row.number, row.path, str(error))
    except MemoryError:
        return Rejected(row.number, row.path, "too_large: not enough memory to read the file")
    except Exception as error:  # damage that no check above knows; one file must not stop a build of thousands
        return Rejected(row.number, row.path, f"unreadable: the reader failed with {type(error).__name__}")
    labels = np.array(row.info.labels, np.float32)
    return {
        "id": row.key,
        "patient": row.info.patient,
        "report": row.info.report,
        "labels": labels,
        **pixels,
    }


def _film(case: Case, masks: bool) -> Example:
    full = films.read_full_film(case.file)
    pixels = {"image": geometry.canonical_film(full)}
    if case.mask:
        mask = films.read_film_mask(case.mask, full.shape)
        pixels["lesion_mask"] = geometry.canonical_film_mask(mask, LESION_OF_ANY_KIND)
    elif masks:
        pixels["lesion_mask"] = np.full_like(pixels["image"], UNANNOTATED)
    return pixels


def _volume(case: Case, masks: bool) -> Example:
    if case.mask:
        volume, spacing, mask = volumes.read_volume_with_mask(case.file, case.mask, LESION_OF_ANY_KIND)
        return {"volume": volume, "spacing_mm": spacing, "lesion_mask": mask}
    volume, spacing = volumes.read_volume(case.file)
    pixels = {"volume": volume, "spacing_mm": spacing}
    if masks:
        pixels["lesion_mask"] = np.full(volume.shape, UNANNOTATED, np.uint8)
    return pixels


def _table(manifest: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header's columns and the numbered data rows; blank lines count for nothing."""
    content = _text(manifest)
    first = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [fields for fields in lines if fields]
    except csv.Error as error:
        raise errors.UserError(
            f"{manifest} is not valid CSV at line {lines.line_num}: {error}. Fields with quotes, line breaks or "
            f"'{delimiter}' in them must stand in double quotes, quotes inside doubled"
        ) from error
    header = [_column(name) for name in rows[0]] if rows else []
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise errors.UserError(
            f"{manifest} lacks the columns {', '.join(missing)} in its first line: it needs "
            f"{', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)} and {LABEL}<name>"
        )
    twice = [name for name, count in collections.Counter(header).items() if count > 1 and name]
    if twice:
        raise errors.UserError(f"{manifest} has the columns {', '.join(twice)} more than once")
    if f"{LABEL}" in header:
        raise errors.UserError(f"{manifest} has a column '{LABEL}' without a label's name")
    unused = [name for name in header if name not in (*REQUIRED, *OPTIONAL) and not name.startswith(LABEL)]
    if unused:
        logging.warning("columns of %s that are not used: %s", manifest, ", ".join(unused))
    return header, enumerate(rows[1:], start=1)


def _text(manifest: Path) -> str:
    """The CSV's text: UTF-8, with or without a byte-order mark, or else Windows-1252, as spreadsheets write it."""
    try:
        data = manifest.read_bytes()
    except OSError as error:
        raise errors.UserError(f"cannot read the manifest {manifest}: {error.strerror}") from error
    if data.startswith(LFS_MAGIC):
        raise errors.UserError(f"{manifest} is a Git LFS pointer: run `git lfs pull` where it comes from")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        logging.warning("%s is not UTF-8: read as Windows-1252", manifest)
        return data.decode("cp1252", errors="replace")


def _column(name: str) -> str:
    """A column's name as this code knows it: labels keep their case."""
    name = name.strip()
    head, colon, label = name.partition(":")
    return f"{head.strip().lower()}{colon}{label.strip()}" if colon else name.lower()


def _case(row: dict[str, str], names: list[str], folder: Path) -> tuple[Case, str]:
    """A row's checked content and the split it asks for ("" = none). Raises BadInput; touches no pixel."""
    modality, split = row["modality"].lower(), row.get("split", "").lower()
    if modality not in MODALITIES:
        raise BadInput("bad_modality", f"modality must be {' or '.join(MODALITIES)}")
    if split and split not in SPLITS:
        raise BadInput("bad_split", f"split must be {', '.join(SPLITS)} or blank")
    if not text.clean(row["patient"]):
        raise BadInput("no_patient", "splits go by patient: give every row one")
    report = row["report"]
    if report.encode(errors="replace").startswith(LFS_MAGIC):
        raise BadInput("lfs_pointer", "the report is a Git LFS pointer")
    report = text.clean(report)
    if text.is_empty(report):
        raise BadInput("empty_report", "the report has no words")
    labels = []
    for name in names:
        value = _number(row[LABEL + name])
        if value not in LABEL_VALUES:
            raise BadInput("bad_label", f"{LABEL}{name} must be 1, 0, -1 or blank")
        labels.append(LABEL_VALUES[value])
    file = _locate(row["path"], folder, folder_allowed=modality == "ct")
    mask = _locate(row["mask"], folder, folder_allowed=False) if row.get("mask") else None
    state = " ".join(_state(path) for path in (file, mask) if path)
    return Case(file, mask, text.clean(row["patient"]), report, tuple(labels), state), split


def _number(value: str) -> str:
    """1.0 as 1: spreadsheets and pandas write labels as fractions."""
    return value[:-2] if value.endswith(".0") else value


def _locate(path: str, folder: Path, *, folder_allowed: bool) -> Path:
    """The file or folder of a row. A relative path may not lead out of the CSV's folder, links followed."""
    if not path:
        raise BadInput("missing_file", "the path is blank")
    try:
        base = folder.resolve()
        target = (base / path).resolve(strict=True)
        if not Path(path).is_absolute() and not target.is_relative_to(base):
            raise BadInput("path_outside", "the path leads out of the manifest's folder; absolute paths may")
        if target.is_dir() and not folder_allowed:
            raise BadInput("not_a_file", "a folder, where a file is wanted")
    except FileNotFoundError as error:
        raise BadInput("missing_file", "there is no such file") from error
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a loop of links, a NUL or too long a name
        raise BadInput("io_error", f"the path cannot be followed ({type(error).__name__})") from error
    return target


def _state(path: Path) -> str:
    """Sizes and times of a file, or of all files of a folder: enough to see a change without reading it."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        if len(facts) == 1:
            return "{1}/{2}".format(*facts[0])
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error


def _repeated(earlier: dict[str, str], row: dict[str, str]) -> tuple[str, str]:
    if earlier == row:
        return "duplicate_row", "the row stands in the manifest already"
    return "duplicate_path", "an earlier row names the same file with other content"


def _split_by_patient(rows: list[Row]) -> tuple[list[Row], list[Rejected]]:
    """Gives every row its patient's split; a patient whom the manifest puts into two is left out as a whole."""
    asked: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        asked[row.info.patient] |= {row.split} - {""}
    kept, leaked = [], []
    for row in rows:
        splits = asked[row.info.patient]
        if len(splits) > 1:
            reason = f"leak_patient: the patient is in {' and '.join(sorted(splits))}"
            leaked.append(Rejected(row.number, row.path, reason))
            continue
        split = next(iter(splits), "") or hashed_split(row.info.patient)
        kept.append(dataclasses.replace(row, split=split))
    return kept, leaked


def hashed_split(patient: str) -> str:
    """A split that depends on the patient's name alone, so that growing a manifest moves nobody."""
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
    if share < TRAIN_SHARE:
        return "train"
    return "val" if share < TRAIN_SHARE + VAL_SHARE else "test"
