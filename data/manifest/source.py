"""A CSV of your own X-rays and CTs -> Source. A bad row is left out with a reason and never stops the build."""

import dataclasses
import functools
import hashlib
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import views
from data.manifest import privacy, samples, table
from data.manifest.options import DEFAULT, UNCERTAIN, Options
from data.manifest.reading import PLAIN, Reading
from data.manifest.table import LABEL
from data.readers.files import LFS_MAGIC, BadInput, Note
from data.readers.table import is_damaged, readable
from data.record_grid import RecordGrid
from data.reports import prompts, sections, text
from data.source import MODALITIES, SPLITS, Example, Rejected, Row, Source

LOG = logging.getLogger(__name__)
Numbered = Iterator[tuple[int, list[str]]]  # the rows of a manifest
PICTURES = ("path", "modality")  # the columns that pictures without a patient need
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}  # others' names of SPLITS
ROUNDED = re.compile(r"[+-]?\d+([.,]\d+)?[eE]\+?\d+")  # and a long one: 1.23E+11
LABEL_VALUES = {"1": 1.0, "0": 0.0, "": np.nan}

CONTRACT = {
    "labels": "1 and 0 are kept, blank (unknown) becomes NaN, and -1 (uncertain) what `uncertain_becomes` says",
    "split": f"by patient; not given: sha256 of the patient, {samples.TRAIN_SHARE:.0%} train, "
    f"{samples.VAL_SHARE:.0%} val",
    "mask": f"whatever is not 0 is a lesion of unstated kind, {samples.LESION_OF_ANY_KIND}",
}


def read(manifest: Path, options: Options = DEFAULT, salt: str = "") -> Source:
    """The source that a CSV describes; patients and file names are hashed with `salt`.

    One with labels or masks whose column `report` is blank throughout is a set for evaluation, and its contract says so
    as those of public sets without reports do.
    Raises UserError for a file that is no CSV or lacks a column that it needs.
    """
    header, numbered = table.read(manifest)
    names = [column[len(LABEL) :].strip() for column in header if column.startswith(LABEL)]
    columns = tuple(column for column in views.COLUMNS if column in header)
    silent, numbered = _without_reports(header, numbered)
    if silent := silent and bool(names or "mask" in header):
        LOG.warning("no row of %s has a report: the set is for evaluation, and cannot be pre-trained on", manifest)
    rejected: list[Rejected] = []
    rows: list[Row] = []
    first_row: dict[Path, bytes] = {}  # that names the file, as a hash
    few: dict[tuple[float, ...], tuple[float, ...]] = {}  # sets of labels: thousands of rows share one
    uncertain = dict.fromkeys(names, 0)
    for number, fields in numbered:
        row = dict(zip(header, (field.strip() for field in fields), strict=False))
        try:
            _check_fields(fields, header)
            sample, split = _sample(row, names, manifest.parent, options, silent=silent)
            sample = dataclasses.replace(sample, labels=few.setdefault(sample.labels, sample.labels))
            _check_new(fields, sample.file, first_row)
        except BadInput as error:
            rejected.append(Rejected(number, readable(row.get("path", "")), str(error)))
            continue
        for name in names:
            uncertain[name] += table.whole(row[LABEL + name]) == "-1"
        key = privacy.pseudonym(row["path"], salt)
        rows.append(Row(key, row["modality"].lower(), split, number, info=sample, path=row["path"]))
    del first_row
    rows, leaked = samples.split_by_patient(rows)
    if not options.keep_ids:
        rows = samples.hidden(rows, salt)
    masks = any(row.info.mask for row in rows)
    pixels = functools.partial(samples.pixels, masks=masks, rules=options.scans)
    return Source(
        labels=tuple(names),
        prompts={name: prompts.of_label(name) for name in names},
        rows=rows,
        convert=functools.partial(samples.convert, read=pixels, grid=options.grid),
        annotations=options.grid.with_originals({"lesion_mask"} if masks else ()),
        contract={
            "kind": "manifest",
            **CONTRACT,
            "id": f"first 16 hex digits of the {'salted ' if salt else ''}sha256 of the path as the CSV gives it",
            "patient": "as the CSV gives it" if options.keep_ids else "hashed like the path",
            "uncertain": uncertain,
            "uncertain_becomes": options.uncertain,
            "sections": list(options.sections),
            **({"headings": options.captions.headings} if options.captions else {}),
            "language": options.language,
            "assumed_axes": options.scans.assume,
            "min_slices": options.scans.min_slices,
            **({"columns": list(columns)} if columns else {}),
            **({"reports": None} if silent else {}),
        },
        columns=columns,
        rejected=tuple(sorted((*rejected, *leaked), key=lambda one: one.row)),
        salt=salt,
        grid=options.grid,
    )


def read_pictures(manifest: Path, reading: Reading = PLAIN) -> Source:
    """The pictures that a CSV names, as a trained network's set read its own: only `path` and `modality` are needed.

    A row without a report has "" for it; patients, splits, labels and masks are not looked at. Raises UserError.
    """
    header, numbered = table.read(manifest, PICTURES)
    rejected: list[Rejected] = []
    rows: list[Row] = []
    first_row: dict[Path, bytes] = {}
    for number, fields in numbered:
        row = dict(zip(header, (field.strip() for field in fields), strict=False))
        try:
            _check_fields(fields, header)
            sample = _picture(row, manifest.parent, reading)
            _check_new(fields, sample.file, first_row)
        except BadInput as error:
            rejected.append(Rejected(number, readable(row.get("path", "")), str(error)))
            continue
        rows.append(Row(row["path"], row["modality"].lower(), "", number, info=sample, path=row["path"]))

    def pixels(sample: samples.Sample, modality: str, note: Note, _: RecordGrid) -> Example:
        return reading.fields(sample.file, modality, note)

    convert = functools.partial(samples.convert, read=pixels, grid=reading.grid)
    return Source((), {}, rows, convert, rejected=tuple(rejected), grid=reading.grid)


def _without_reports(header: list[str], numbered: Numbered) -> tuple[bool, Numbered]:
    """Whether the column `report` is blank in every row; and the rows again, read on only up to one with a report."""
    at, blank = header.index("report"), []
    for number, fields in numbered:
        blank.append((number, fields))
        if "".join(fields[at : at + 1]).strip():
            return False, itertools.chain(blank, numbered)
    return bool(blank), iter(blank)


def _check_fields(fields: list[str], header: list[str]) -> None:
    if any(map(is_damaged, fields)):
        raise BadInput("bad_encoding", "bytes that are not UTF-8 in an otherwise UTF-8 file")
    if len(fields) != len(header):
        raise BadInput("wrong_fields", f"{len(fields)} fields, the header has {len(header)}")


def _check_new(fields: list[str], file: Path, first_row: dict[Path, bytes]) -> None:
    """Raises BadInput for a file that an earlier row names, else adds this row to `first_row`."""
    content = hashlib.blake2b(repr([field.strip() for field in fields]).encode(), digest_size=16).digest()
    first = first_row.setdefault(file, content)
    if first is content:
        return
    if first == content:
        raise BadInput("duplicate_row", "the row is in the manifest already")
    raise BadInput("duplicate_path", "an earlier row names the same file with other content")


def _sample(
    row: dict[str, str], names: list[str], folder: Path, options: Options, *, silent: bool
) -> tuple[samples.Sample, str]:
    """A row's checked content and the split it asks for ("" = none), without reading pixels. Raises BadInput.

    `silent`: no row has a report.
    """
    modality, split = _modality(row), row.get("split", "").lower()
    split = SPLIT_NAMES.get(split, split)
    if split and split not in SPLITS:
        raise BadInput("bad_split", f"split must be {', '.join(SPLITS)} or blank")
    patient = table.name(row["patient"])
    if not patient:
        raise BadInput("no_patient", "splits go by patient: give every row one")
    if ROUNDED.fullmatch(patient):
        raise BadInput("rounded_patient", "a spreadsheet has rounded the patient's number: several may be one now")
    report = _report(row)
    if not silent and text.is_empty(text.clean(report)):
        raise BadInput("empty_report", "the report has no words")
    report = sections.select(report, options.captions)
    language = text.language(report)
    if options.language and language in text.WORDS and language != options.language:
        raise BadInput("wrong_language", f"the report reads as '{language}', config.language is '{options.language}'")
    meanings = {**LABEL_VALUES, "-1": UNCERTAIN[options.uncertain]}
    labels = []
    for name in names:
        value = table.whole(row[LABEL + name])
        if value not in meanings:
            raise BadInput("bad_label", f"{LABEL}{name} must be 1, 0, -1 or blank")
        labels.append(meanings[value])
    file, sha256 = _file(row, folder, modality)
    mask = samples.locate(row["mask"], folder, "missing_mask", folder_allowed=False) if row.get("mask") else None
    columns = tuple((name, table.name(row[name])) for name in views.COLUMNS if name in row)
    state = samples.state(file, mask)
    return samples.Sample(file, mask, patient, report, tuple(labels), state, sha256, columns=columns), split


def _picture(row: dict[str, str], folder: Path, reading: Reading) -> samples.Sample:
    """A row's file and, where it has them, its report and view. Raises BadInput."""
    file, sha256 = _file(row, folder, _modality(row))
    report = reading.caption(_report(row))
    words = "" if text.is_empty(report) else report
    view = table.name(row.get("view", ""))
    columns = (("view", view),) if view else ()
    return samples.Sample(file, None, "", words, (), samples.state(file), sha256, columns=columns)


def _modality(row: dict[str, str]) -> str:
    modality = row["modality"].lower()
    if modality not in MODALITIES:
        raise BadInput("bad_modality", f"modality must be {' or '.join(MODALITIES)}")
    return modality


def _report(row: dict[str, str]) -> str:
    report = row.get("report", "")
    if report.encode(errors="replace").startswith(LFS_MAGIC):
        raise BadInput("lfs_pointer", "the report is a Git LFS pointer")
    return report


def _file(row: dict[str, str], folder: Path, modality: str) -> tuple[Path, str]:
    """The picture of a row and the sha256 that it must have ("" = any)."""
    file = samples.locate(row["path"], folder, "missing_image", folder_allowed=modality == "ct")
    sha256 = row.get("sha256", "").lower()
    if sha256 and (not re.fullmatch("[0-9a-f]{64}", sha256) or file.is_dir()):
        raise BadInput("bad_hash", "sha256 must be 64 hex digits, and of a file")
    return file, sha256
