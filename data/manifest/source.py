"""A CSV of one's own films and CTs -> Source; a bad row is left out with a reason, and never stops the others."""

import functools
import re
from pathlib import Path

import numpy as np

from data.manifest import privacy, samples, table
from data.manifest.options import DEFAULT, UNCERTAIN, Choices
from data.manifest.table import LABEL
from data.readers.files import LFS_MAGIC, BadInput
from data.reports import sections, text
from data.source import MODALITIES, SPLITS, Rejected, Row, Source

REQUIRED = ("path", "modality", "report", "patient")
OPTIONAL = ("split", "mask", "sha256")
LABEL_VALUES = {"1": 1.0, "0": 0.0, "": np.nan}

CONTRACT = {
    "labels": "1 and 0 are kept, blank (unknown) becomes NaN, and -1 (uncertain) what `uncertain_becomes` says",
    "split": f"by patient; not given: sha256 of the patient, {samples.TRAIN_SHARE:.0%} train, "
    f"{samples.VAL_SHARE:.0%} val",
    "mask": f"whatever is not 0 is a lesion of unstated kind, {samples.LESION_OF_ANY_KIND}",
}


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
    rows, leaked = samples.split_by_patient(rows)
    if not choices.keep_ids:
        rows = samples.hidden(rows, salt)
    masks = any(row.info.mask for row in rows)
    return Source(
        labels=tuple(names),
        prompts={name: samples.prompts(name) for name in names},
        rows=rows,
        convert=functools.partial(
            samples.convert, read=functools.partial(samples.pixels, masks=masks, rules=choices.scans)
        ),
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


def _case(row: dict[str, str], names: list[str], folder: Path, choices: Choices) -> tuple[samples.Case, str]:
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
    file = samples.locate(row["path"], folder, "missing_image", folder_allowed=modality == "ct")
    mask = samples.locate(row["mask"], folder, "missing_mask", folder_allowed=False) if row.get("mask") else None
    state = " ".join(samples.state(path) for path in (file, mask) if path)
    sha256 = row.get("sha256", "").lower()
    if sha256 and (not re.fullmatch("[0-9a-f]{64}", sha256) or file.is_dir()):
        raise BadInput("bad_hash", "sha256 must be 64 hex digits, and of a file")
    return samples.Case(file, mask, text.clean(row["patient"]), report, tuple(labels), state, sha256), split


def _number(value: str) -> str:
    """1.0 as 1: spreadsheets and pandas write labels as fractions."""
    return value[:-2] if value.endswith(".0") else value


def _repeated(earlier: dict[str, str], row: dict[str, str]) -> tuple[str, str]:
    if earlier == row:
        return "duplicate_row", "the row stands in the manifest already"
    return "duplicate_path", "an earlier row names the same file with other content"
