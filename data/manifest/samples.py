"""Films and CTs of a manifest or of a public set: from a file, a patient and a report to rows and examples."""

import collections
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.manifest import privacy
from data.readers import geometry, image_statistics, volumes, xrays
from data.readers.files import BadInput, Note, check_hash
from data.source import Example, Rejected, Row

LESION_OF_ANY_KIND = 254
UNANNOTATED = 255
TRAIN_SHARE, VAL_SHARE = 0.8, 0.1


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
    truth: Any = None  # what a set's tables say of the picture: boxes, runs of a mask, slope and intercept


Reader = Callable[[Case, str, Note], Example]  # the pixel fields of a case of a modality


def convert(row: Row, *, read: Reader) -> Example | Rejected:
    """The example of a row, whose pixels `read` gives.

    The field `notes`, beside those of the record, holds codes of what was put up with or looks odd.
    """
    notes: list[str] = []
    try:
        if row.info.sha256:
            check_hash(row.info.file, row.info.sha256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the readers' libraries warn of what is handled here
            fields = read(row.info, row.modality, notes.append)
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
        "labels": np.array(row.info.labels, np.float32),
        **fields,
        "notes": (*dict.fromkeys(notes), *image_statistics.suspicions(image_statistics.measure(fields))),
    }


def pixels(case: Case, modality: str, note: Note, *, masks: bool = False, rules: volumes.Rules) -> Example:
    """A film or a volume and, with `masks`, its lesion mask, unannotated where the case has none. Raises BadInput."""
    return _film(case, masks, note) if modality == "xray" else _volume(case, masks, note, rules)


def _film(case: Case, masks: bool, note: Note) -> Example:
    full = xrays.read_full_film(case.file, note)
    fields = {"image": geometry.canonical_film(full)}
    if case.mask:
        mask = xrays.read_film_mask(case.mask, full.shape)
        fields["lesion_mask"] = geometry.canonical_film_mask(mask, LESION_OF_ANY_KIND)
    elif masks:
        fields["lesion_mask"] = np.full_like(fields["image"], UNANNOTATED)
    return fields


def _volume(case: Case, masks: bool, note: Note, rules: volumes.Rules) -> Example:
    if case.mask:
        volume, spacing, mask = volumes.read_volume_with_mask(case.file, case.mask, LESION_OF_ANY_KIND, note, rules)
        return {"volume": volume, "spacing_mm": spacing, "lesion_mask": mask}
    volume, spacing = volumes.read_volume(case.file, note, rules)
    fields = {"volume": volume, "spacing_mm": spacing}
    if masks:
        fields["lesion_mask"] = np.full(volume.shape, UNANNOTATED, np.uint8)
    return fields


def locate(path: str, folder: Path, missing: str, *, folder_allowed: bool, links: bool = False) -> Path:
    """The file or folder of a row. A relative path may not lead out of `folder`, links followed (unless `links`)."""
    if not path:
        raise BadInput(missing, "the path is blank")
    try:
        base = folder.resolve()
        target = (base / path).resolve(strict=True)
        named = Path(os.path.normpath(base / path)) if links else target
        if not Path(path).is_absolute() and not named.is_relative_to(base):
            raise BadInput("path_outside", "the path leads out of the manifest's folder; absolute paths may")
        if target.is_dir() and not folder_allowed:
            raise BadInput("io_error", "a folder, where a file is wanted")
    except FileNotFoundError as error:
        raise BadInput(missing, "there is no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL or too long a name
        raise BadInput("io_error", f"the path cannot be followed ({type(error).__name__})") from error
    return target


def state(path: Path) -> str:
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


def prompts(name: str) -> dict[str, list[str]]:
    """Sentences that assert and deny a label; the two lists match one to one."""
    words = name.replace("_", " ").strip().lower()
    return {
        "positive": [words, f"there is {words}", f"findings of {words}"],
        "negative": [f"no {words}", f"there is no {words}", f"no findings of {words}"],
    }


def split_by_patient(rows: list[Row]) -> tuple[list[Row], list[Rejected]]:
    """Gives every row its patient's split; a patient whom the source puts into two is left out as a whole."""
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


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def hashed_split(patient: str) -> str:
    """A split that depends on the patient's name alone, so that growing a manifest moves nobody."""
    share = share_of(patient)
    if share < TRAIN_SHARE:
        return "train"
    return "val" if share < TRAIN_SHARE + VAL_SHARE else "test"


def hidden(rows: list[Row], salt: str) -> list[Row]:
    """The rows with pseudonyms for their patients."""
    names = {row.info.patient: privacy.pseudonym(row.info.patient, salt) for row in rows}
    return [
        dataclasses.replace(row, info=dataclasses.replace(row.info, patient=names[row.info.patient])) for row in rows
    ]
