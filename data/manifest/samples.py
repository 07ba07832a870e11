"""X-rays and CTs of a manifest or of a public set: from a file, a patient and a report to rows and examples."""

import collections
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data import record_grid
from data.manifest import privacy
from data.readers import ct_records, geometry, image_statistics, volumes, xrays
from data.readers.files import BadInput, Note, check_hash
from data.record_grid import RecordGrid
from data.source import Example, Rejected, Row

LESION_OF_ANY_KIND = 254
UNANNOTATED = 255
TRAIN_SHARE, VAL_SHARE = 0.8, 0.1


@dataclass(frozen=True, repr=False, slots=True)
class Sample:
    """What a worker needs to read one row, and what shows that its files have not changed."""

    file: Path
    mask: Path | None
    patient: str
    report: str
    labels: tuple[float, ...]
    state: str  # sizes and times of the row's files
    sha256: str = ""  # that the file must have
    annotation: Any = None  # what a set's tables hold of the image: boxes, runs of a mask, slope and intercept
    columns: tuple[tuple[str, str], ...] = ()  # of views.COLUMNS, with their values

    def __repr__(self) -> str:
        """What the fingerprint of a source hashes: no paths, and the names by which sets on disk are recognised."""
        facts = f"patient={self.patient!r}, report={self.report!r}, labels={self.labels!r}, state={self.state!r}"
        columns = f", columns={self.columns!r}" if self.columns else ""
        return f"Case({facts}, sha256={self.sha256!r}, truth={self.annotation!r}{columns})"


Reader = Callable[[Sample, str, Note, RecordGrid], Example]  # the fields of a sample's pixels, by its modality


def convert(row: Row, *, read: Reader, grid: RecordGrid = record_grid.DEFAULT) -> Example | Rejected:
    """The example of a row, whose pixels `read` gives on the `grid` of the set.

    The field `notes`, which is not stored, holds codes of what was tolerated or looks odd.
    """
    notes: list[str] = []
    try:
        if row.info.sha256:
            check_hash(row.info.file, row.info.sha256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn of what is handled here
            fields = read(row.info, row.modality, notes.append, grid)
    except BadInput as error:
        return Rejected(row.number, row.path, str(error))
    except MemoryError:
        return Rejected(row.number, row.path, "too_large: not enough memory to read the file")
    except Exception as error:  # damage that no check above knows; one file must not stop a build of thousands
        return Rejected(row.number, row.path, f"unreadable: the reader failed with {type(error).__name__}")
    return {
        "id": row.key,
        "patient": row.info.patient,
        "report": row.info.report,
        **dict(row.info.columns),
        "labels": np.array(row.info.labels, np.float32),
        **fields,
        "notes": (*dict.fromkeys(notes), *image_statistics.suspicions(image_statistics.measure(fields))),
    }


def pixels(
    sample: Sample, modality: str, note: Note, grid: RecordGrid, *, masks: bool = False, rules: volumes.Rules
) -> Example:
    """An X-ray or a volume and, with `masks`, its lesion mask, unannotated where the sample has none.

    Raises BadInput.
    """
    image = "image" if modality == "xray" else "volume"
    fields = _xray(sample, note, grid) if modality == "xray" else _volume(sample, note, grid, rules)
    if masks and not sample.mask:
        fields["lesion_mask"] = np.full(fields[image].shape, UNANNOTATED, np.uint8)
        if "original_shape" in fields:
            fields[ct_records.ORIGINAL + "lesion_mask"] = np.full(fields["original_shape"], UNANNOTATED, np.uint8)
    return fields


def _xray(sample: Sample, note: Note, grid: RecordGrid) -> Example:
    film = xrays.read_film(sample.file, note)
    fields = {"image": geometry.canonical_xray(film.pixels, grid.film_size)}
    if sample.mask:
        mask = xrays.read_xray_mask(sample.mask, film)
        fields["lesion_mask"] = geometry.canonical_xray_mask(mask, LESION_OF_ANY_KIND, grid.film_size)
    return fields


def _volume(sample: Sample, note: Note, grid: RecordGrid, rules: volumes.Rules) -> Example:
    if not sample.mask:
        return ct_records.read(sample.file, grid, note, rules).fields
    mask = ct_records.MaskFile(sample.mask, "lesion_mask", LESION_OF_ANY_KIND)
    return ct_records.read_with_mask(sample.file, mask, grid, note, rules)


def locate(path: str, folder: Path, missing: str, *, folder_allowed: bool, links: bool = False) -> Path:
    """The file or folder of a row. A relative path may not lead out of `folder`, links followed (unless `links`).

    Raises BadInput, with the code `missing` where nothing is there.
    """
    if not path:
        raise BadInput(missing, "the path is blank")
    try:
        base = folder.resolve()
        target = (base / path).resolve(strict=True)
        named = Path(os.path.normpath(base / path)) if links else target
        is_folder = target.is_dir()
        if is_folder and not folder_allowed:
            raise BadInput("io_error", "a folder where a file is needed")
        if not Path(path).is_absolute():
            advice = "copy the file in, or write its absolute path into the manifest"
            if not named.is_relative_to(base):
                problem = "the path, or the link that it is, leads out of the manifest's folder"
                raise BadInput("path_outside", f"{problem}: {advice}")
            if not links and is_folder and not _stays_inside(target, base):
                raise BadInput("path_outside", f"a link in the folder leads out of the manifest's: {advice}")
    except FileNotFoundError as error:
        raise BadInput(missing, "there is no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL or too long a name
        raise BadInput("io_error", f"the path cannot be followed ({type(error).__name__})") from error
    return target


def _stays_inside(folder: Path, base: Path) -> bool:
    """Whether every link in a folder, as of each slice in a clone of git-annex, ends below `base`."""
    with os.scandir(folder) as entries:
        linked = [folder / entry.name for entry in entries if entry.is_symlink()]
    return all(link.resolve().is_relative_to(base) for link in linked)


def state(*paths: Path | None) -> str:
    """Sizes and times of a row's files: enough to notice a change without reading them. Raises BadInput."""
    return " ".join(_state(path) for path in paths if path)


def _state(path: Path) -> str:
    try:
        files = volumes.files(path)
        facts = [(file.name, facts.st_size, facts.st_mtime_ns) for file in files for facts in (file.stat(),)]
        if len(facts) == 1:
            return "{1}/{2}".format(*facts[0])
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    except FileNotFoundError as error:
        raise BadInput("missing_file", "a link leads nowhere: fetch the content, as by `git annex get`") from error
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error


def split_by_patient(rows: list[Row]) -> tuple[list[Row], list[Rejected]]:
    """Gives every row its patient's split; a patient whom the source puts into two is left out as a whole."""
    splits_of = splits_by_patient(rows)
    placed, leaked = [], []
    for row in rows:
        splits = splits_of[row.info.patient] - {""}
        if len(splits) > 1:
            reason = f"leak_patient: the patient is in {' and '.join(sorted(splits))}"
            leaked.append(Rejected(row.number, row.path, reason))
            continue
        split = next(iter(splits), "") or hashed_split(row.info.patient)
        placed.append(replace(row, split=split))
    return placed, leaked


def splits_by_patient(rows: Iterable[Row]) -> dict[str, set[str]]:
    """The splits that the rows of each patient name, "" where a row names none."""
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        splits[row.info.patient].add(row.split)
    return splits


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def hashed_split(patient: str) -> str:
    """A split that depends on the patient's name alone, so a growing manifest moves nobody."""
    share = share_of(patient)
    if share < TRAIN_SHARE:
        return "train"
    return "val" if share < TRAIN_SHARE + VAL_SHARE else "test"


def hidden(rows: list[Row], salt: str) -> list[Row]:
    """The same list, its rows replaced one after the other: pseudonyms for patients, studies and series."""
    names: dict[str, str] = {}  # one string for all rows of a patient
    for index, row in enumerate(rows):
        sample = row.info
        if sample.patient not in names:
            names[sample.patient] = privacy.pseudonym(sample.patient, salt)
        columns = tuple((name, _hidden(name, value, sample.patient, salt)) for name, value in sample.columns)
        rows[index] = replace(row, info=replace(sample, patient=names[sample.patient], columns=columns))
    return rows


def _hidden(column: str, value: str, patient: str, salt: str) -> str:
    """A view and a blank as they are; a name of a study or series as a pseudonym, another one for each patient."""
    return value if column == "view" or not value else privacy.pseudonym(f"{patient}\0{column}\0{value}", salt)
