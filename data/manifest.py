"""A CSV of one's own films and CTs -> Source; a bad row is left out with a reason, and never stops the others."""

import collections
import dataclasses
import functools
import hashlib
import re
import warnings
from pathlib import Path

import numpy as np

from data import films, geometry, privacy, sections, signs, table, text, volumes
from data.choices import DEFAULT, UNCERTAIN, Choices
from data.files import LFS_MAGIC, BadInput, check_hash
from data.source import MODALITIES, SPLITS, Example, Rejected, Row, Source
from data.table import LABEL

REQUIRED = ("path", "modality", "report", "patient")
OPTIONAL = ("split", "mask", "sha256")
LABEL_VALUES = {"1": 1.0, "0": 0.0, "": np.nan}
LESION_OF_ANY_KIND = 254
UNANNOTATED = 255
TRAIN_SHARE, VAL_SHARE = 0.8, 0.1

CONTRACT = {
    "labels": "1 and 0 are kept, blank (unknown) becomes NaN, and -1 (uncertain) what `uncertain_becomes` says",
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
    sha256: str = ""  # that the file must have


def read(manifest: Path, choices: Choices = DEFAULT, salt: str = "") -> Source:
    """The source that a CSV describes; names of patients and files leave it as hashes with `salt`.

    Raises UserError for a CSV without the columns it needs, or that is none.
    """
    header, numbered = table.read(manifest, REQUIRED, OPTIONAL)
    names = [column[len(LABEL) :].strip() for column in header if column.startswith(LABEL)]
    rejected: list[Rejected] = []
    rows: list[Row] = []
    seen: dict[Path, dict[str, str]] = {}
    uncertain = dict.fromkeys(names, 0)
    for number, fields in numbered:
        row = dict(zip(header, (field.strip() for field in fields), strict=False))
        try:
            if len(fields) != len(header):
                raise BadInput("wrong_fields", f"{len(fields)} fields, the header has {len(header)}")
            case, split = _case(row, names, manifest.parent, choices)
            earlier = seen.setdefault(case.file, row)
            if earlier is not row:
                raise BadInput(*_repeated(earlier, row))
        except BadInput as error:
            rejected.append(Rejected(number, row.get("path", ""), str(error)))
            continue
        for name in names:
            uncertain[name] += _number(row[LABEL + name]) == "-1"
        key = privacy.pseudonym(row["path"], salt)
        rows.append(Row(key, row["modality"].lower(), split, number, info=case, path=row["path"]))
    rows, leaked = _split_by_patient(rows)
    if not choices.keep_ids:
        rows = [
            dataclasses.replace(
                row, info=dataclasses.replace(row.info, patient=privacy.pseudonym(row.info.patient, salt))
            )
            for row in rows
        ]
    masks = any(row.info.mask for row in rows)
    return Source(
        labels=tuple(names),
        prompts={name: prompts(name) for name in names},
        rows=rows,
        convert=functools.partial(convert, masks=masks, rules=choices.scans),
        truth=frozenset({"lesion_mask"} if masks else ()),
        contract={
            "kind": "manifest",
            **CONTRACT,
            "id": f"first 16 hex digits of the {'salted ' if salt else ''}sha256 of the path as the CSV gives it",
            "patient": "as the CSV gives it" if choices.keep_ids else "hashed like the path",
            "uncertain": uncertain,
            "uncertain_becomes": choices.uncertain,
            "sections": list(choices.sections),
            "language": choices.language,
            "assumed_axes": choices.scans.assume,
            "min_slices": choices.scans.min_slices,
        },
        rejected=tuple(sorted((*rejected, *leaked), key=lambda one: one.row)),
    )


def prompts(name: str) -> dict[str, list[str]]:
    """Sentences that assert and deny a label; the two lists match one to one."""
    words = name.replace("_", " ").strip().lower()
    return {
        "positive": [words, f"there is {words}", f"findings of {words}"],
        "negative": [f"no {words}", f"there is no {words}", f"no findings of {words}"],
    }


def convert(row: Row, *, masks: bool, rules: volumes.Rules) -> Example | Rejected:
    """Reads a row's files; with `masks` every example has one, unannotated where the row gives none.

    The field `notes`, beside those of the record, holds codes of what was put up with or looks odd.
    """
    notes: list[str] = []
    try:
        if row.info.sha256:
            check_hash(row.info.file, row.info.sha256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the readers' libraries warn of what is handled here
            is_film = row.modality == "xray"
            pixels = _film(row.info, masks, notes) if is_film else _volume(row.info, masks, notes, rules)
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
        "notes": (*dict.fromkeys(notes), *signs.suspicions(signs.measure(pixels))),
    }


def _film(case: Case, masks: bool, notes: list[str]) -> Example:
    full = films.read_full_film(case.file, notes.append)
    pixels = {"image": geometry.canonical_film(full)}
    if case.mask:
        mask = films.read_film_mask(case.mask, full.shape)
        pixels["lesion_mask"] = geometry.canonical_film_mask(mask, LESION_OF_ANY_KIND)
    elif masks:
        pixels["lesion_mask"] = np.full_like(pixels["image"], UNANNOTATED)
    return pixels


def _volume(case: Case, masks: bool, notes: list[str], rules: volumes.Rules) -> Example:
    note = notes.append
    if case.mask:
        volume, spacing, mask = volumes.read_volume_with_mask(case.file, case.mask, LESION_OF_ANY_KIND, note, rules)
        return {"volume": volume, "spacing_mm": spacing, "lesion_mask": mask}
    volume, spacing = volumes.read_volume(case.file, note, rules)
    pixels = {"volume": volume, "spacing_mm": spacing}
    if masks:
        pixels["lesion_mask"] = np.full(volume.shape, UNANNOTATED, np.uint8)
    return pixels


def _case(row: dict[str, str], names: list[str], folder: Path, choices: Choices) -> tuple[Case, str]:
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
    if text.is_empty(text.clean(report)):
        raise BadInput("empty_report", "the report has no words")
    report = sections.select(report, choices.sections)
    spoken = text.language(report)
    if choices.language and spoken in text.WORDS and spoken != choices.language:
        raise BadInput("wrong_language", f"the report reads as '{spoken}', config.language is '{choices.language}'")
    meanings = {**LABEL_VALUES, "-1": UNCERTAIN[choices.uncertain]}
    labels = []
    for name in names:
        value = _number(row[LABEL + name])
        if value not in meanings:
            raise BadInput("bad_label", f"{LABEL}{name} must be 1, 0, -1 or blank")
        labels.append(meanings[value])
    file = _locate(row["path"], folder, "missing_image", folder_allowed=modality == "ct")
    mask = _locate(row["mask"], folder, "missing_mask", folder_allowed=False) if row.get("mask") else None
    state = " ".join(_state(path) for path in (file, mask) if path)
    sha256 = row.get("sha256", "").lower()
    if sha256 and (not re.fullmatch("[0-9a-f]{64}", sha256) or file.is_dir()):
        raise BadInput("bad_hash", "sha256 must be 64 hex digits, and of a file")
    return Case(file, mask, text.clean(row["patient"]), report, tuple(labels), state, sha256), split


def _number(value: str) -> str:
    """1.0 as 1: spreadsheets and pandas write labels as fractions."""
    return value[:-2] if value.endswith(".0") else value


def _locate(path: str, folder: Path, missing: str, *, folder_allowed: bool) -> Path:
    """The file or folder of a row. A relative path may not lead out of the CSV's folder, links followed."""
    if not path:
        raise BadInput(missing, "the path is blank")
    try:
        base = folder.resolve()
        target = (base / path).resolve(strict=True)
        if not Path(path).is_absolute() and not target.is_relative_to(base):
            raise BadInput("path_outside", "the path leads out of the manifest's folder; absolute paths may")
        if target.is_dir() and not folder_allowed:
            raise BadInput("io_error", "a folder, where a file is wanted")
    except FileNotFoundError as error:
        raise BadInput(missing, "there is no such file") from error
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
        if path.suffix in (".hdr", ".img", ".mhd", ".nhdr"):  # the voxels are in a file beside
            files = sorted(file for file in path.parent.iterdir() if file.name.startswith(path.stem))
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
