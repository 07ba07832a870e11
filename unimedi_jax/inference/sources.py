"""Files, folders, DICOM series and manifests as a list of pictures and reports, read by the rules of the build job."""

import collections
import concurrent.futures
import contextvars
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

from data import contract, json_files, record_grid
from data.build import contracts
from data.errors import UserError
from data.manifest import samples
from data.manifest import source as manifest
from data.manifest.reading import PLAIN, Reading
from data.readers import table, volumes
from data.readers.files import BadInput
from data.record_grid import RecordGrid
from data.reports import text
from data.source import Rejected

if TYPE_CHECKING:  # what reads an upload in a process of its own waits for no JAX
    from unimedi_jax.inference import pretrained

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
AHEAD = {"xray": 8, "ct": 1, "report": 1}  # items that are read before they are asked for
READERS = {"xray": 2, "ct": 1, "report": 1}  # threads: decoding a film takes little memory, a CT much
LONGEST_STEM = 200  # bytes of a file's name, which file systems limit to 255
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DICOM = (".dcm", ".dicom", ".ima")  # of damaged files; whole ones are known by what they begin with


@dataclasses.dataclass(frozen=True)
class Item:
    """One X-ray, CT or report that is still to be read."""

    id: str  # the path as given, relative to the source; of a line of text its number
    modality: str  # "xray", "ct" or "report"
    read: Callable[[], np.ndarray] | None = None  # X-ray uint8 (y, x) or volume int16 HU (z, y, x)
    report: str = ""
    path: pathlib.Path | None = None
    view: str = ""  # of an X-ray, in the words of the manifest or of its DICOM header (ViewPosition)


def find(source: pathlib.Path, reading: Reading = PLAIN) -> tuple[list[Item], list[Rejected]]:
    """All items of a source, to be read by `reading`, in a fixed order, and the rows that a check of tables rejected.

    A .csv is a manifest of the build job, of which only path and modality are needed, and a .txt holds one report a
    line. A folder is searched with its subfolders; one with a DICOM CT series is one CT, and so is each enhanced
    (multi-frame) file.

    Raises:
        UserError: the source does not exist, or holds nothing that can be read.
    """
    if not source.exists():
        raise UserError(f"config.source {source} does not exist")
    rejected: list[Rejected] = []
    if source.is_dir():
        items = list(_folder(source, source, reading))
    elif source.suffix.lower() == ".csv":
        items, rejected = _manifest(source, reading)
    elif source.suffix.lower() == ".txt":
        items, rejected = _lines(source, reading)
    else:
        items = [item] if (item := _file(source, source.parent, reading, _header(source))) else []
    if not items and not rejected:
        known = ", ".join((*PICTURES, ".dcm", *volumes.SUFFIXES))
        raise UserError(
            f"config.source {source} holds nothing to embed or predict: {known}, a DICOM series, a .csv or a .txt"
        )
    return items, rejected


def read(
    items: Sequence[Item], modality: str, refused: list[Rejected], skip: Sequence[bool] | np.ndarray = ()
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and pixels (nothing for a report) of the items of a modality; those that cannot be read go to `refused`.

    Items whose number in `skip` is True are passed over. READERS threads read the next AHEAD while the network works on
    those before; CTs one at a time, so that no more memory is taken than for reading one.
    """
    chosen = (
        index for index, item in enumerate(items) if item.modality == modality and not (len(skip) and skip[index])
    )
    with concurrent.futures.ThreadPoolExecutor(READERS[modality], "reader") as threads:
        waiting: collections.deque[tuple[int, concurrent.futures.Future]] = collections.deque()
        try:
            while True:
                for index in itertools.islice(chosen, AHEAD[modality] - len(waiting)):
                    # A thread has the caller's limit of memory.
                    work = functools.partial(contextvars.copy_context().run, _pixels, items[index])
                    waiting.append((index, threads.submit(work)))
                if not waiting:
                    return
                index, result = waiting.popleft()
                try:
                    pixels = result.result()
                except BadInput as error:
                    refused.append(Rejected(index + 1, items[index].id, str(error)))
                except Exception as error:  # damage that no reader knows must not lose the others
                    refused.append(Rejected(index + 1, items[index].id, f"unreadable: {type(error).__name__}"))
                else:
                    yield index, pixels
        finally:
            for _, result in waiting:  # the caller reads no further
                result.cancel()


def of_others(items: Sequence[Item], modalities: Collection[str], who: str) -> list[Rejected]:
    """Entries of the ledger for items of other modalities than `who` takes, as in "this encoder reads xray"."""
    return [
        Rejected(index + 1, item.id, f"other_modality: {who} alone")
        for index, item in enumerate(items)
        if item.modality not in modalities
    ]


def _pixels(item: Item) -> np.ndarray:
    return item.read() if item.read else np.zeros(0)


def write_ledger(out: pathlib.Path, refused: Sequence[Rejected]) -> pathlib.Path:
    """`<out>.rejected.jsonl`: what could not be read, one a line; an older one is removed where there is nothing."""
    ledger = out.with_name(f"{out.name}.rejected.jsonl")
    ledger.unlink(missing_ok=True)
    if refused:
        ledger.write_text("".join(json_files.line(dataclasses.asdict(one)) for one in refused), encoding="utf-8")
    return ledger


def stems(items: Sequence[Item]) -> list[str]:
    """A name for the files of each item: its path without folders, and a number where two would agree.

    No two differ by case alone, which some file systems do not distinguish.
    """
    names: list[str] = []
    taken: set[str] = set()
    for item in items:
        raw = item.id.strip("/").replace("/", "_").replace("\\", "_").encode("utf-8", "replace")
        base = CONTROL.sub("_", raw[-LONGEST_STEM:].decode("utf-8", "ignore"))
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([base], numbered) if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def state(item: Item) -> str:
    """Sizes and times of an item's files, by which a change is noticed; "" where there are none."""
    try:
        return samples.state(item.path)
    except BadInput:
        return ""


def facts(items: Sequence[Item]) -> list[list[str]]:
    """What the items are, as JSON, with the sizes and times of their files: another start sees whether it has these."""
    return [[item.id, item.modality, item.report, item.view, state(item)] for item in items]


def series(item: Item) -> str:
    """The SeriesInstanceUID of a DICOM file or series; "" for other files."""
    path = item.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    dicoms = [header for file in files if file.is_file() and (header := _header(file))]
    # Localisers lie beside a series, never more of them than of its slices.
    uids = collections.Counter(str(header.get("SeriesInstanceUID", "")) for header in dicoms)
    return uids.most_common(1)[0][0] if uids else ""


def check(trained: "pretrained.Pretrained") -> None:
    """Compares the contracts that a network was trained with to the rules of this version's readers.

    Raises:
        UserError: the fields of the contract that differ.
    """
    for then in trained.contracts.values():  # sets of a run may differ in their grids, and files are read on one
        own = rules(record_grid.of_contract(then))
        contract.check_inputs(then, own, where="reading files by the rules of this version")


def rules(grid: RecordGrid = record_grid.DEFAULT) -> dict[str, Any]:
    """The contract of what is read here on a grid."""
    return {"format": contracts.FORMAT, "records": contracts.rules(grid=grid), "libraries": contracts.libraries()}


def _folder(folder: pathlib.Path, root: pathlib.Path, reading: Reading) -> Iterator[Item]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    names = {entry.name.lower() for entry in entries}
    headers = {entry: _header(entry) for entry in entries if entry.is_file() and not _is_voxels(entry, names)}
    cts = {file for file, header in headers.items() if header is not None and header.get("Modality") == "CT"}
    scans = {file for file in cts if _frames(headers[file]) > 1}  # enhanced files, each a whole CT
    slices = cts - scans
    if slices and (not scans or len(slices) >= reading.scans.min_slices):  # fewer beside a scan are its localisers
        yield _ct(folder, root, reading)
    others = (_file(file, root, reading, header) for file, header in headers.items() if file not in slices)
    yield from filter(None, others)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():  # a link may lead in a circle
            yield from _folder(entry, root, reading)


def _is_voxels(path: pathlib.Path, beside: set[str]) -> bool:
    """Whether a file is the .img of a NIfTI pair whose .hdr, an item itself, is among the names beside it."""
    name = path.name.lower()
    return name.endswith(".img") and f"{name.removesuffix('.img')}.hdr" in beside


def _file(path: pathlib.Path, root: pathlib.Path, reading: Reading, header: pydicom.Dataset | None) -> Item | None:
    """An X-ray or CT by the file's name or, of a DICOM file, its header; None for what is neither."""
    if path.name.lower().endswith(volumes.SUFFIXES) or (header is not None and header.get("Modality") == "CT"):
        return _ct(path, root, reading)
    if path.suffix.lower() in PICTURES or header is not None:
        view = "" if header is None else str(header.get("ViewPosition") or "")
        return Item(_name(path, root), "xray", functools.partial(reading.xray, path), path=path, view=view)
    return None


def _ct(path: pathlib.Path, root: pathlib.Path, reading: Reading) -> Item:
    return Item(_name(path, root), "ct", functools.partial(reading.volume, path), path=path)


def _name(path: pathlib.Path, root: pathlib.Path) -> str:
    name = path.relative_to(root).as_posix()
    name = path.resolve().name if name == "." else name
    return os.fsencode(name).decode("utf-8", "backslashreplace")  # a name may have any bytes


def _header(path: pathlib.Path) -> pydicom.Dataset | None:
    """Modality, series, view and number of frames of a DICOM file, nothing of a damaged one; None for another file."""
    if path.name.lower().endswith((*PICTURES, *volumes.SUFFIXES)):
        return None
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return pydicom.Dataset() if path.suffix.lower() in DICOM else None
        tags = ["Modality", "SeriesInstanceUID", "ViewPosition", "NumberOfFrames"]
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except OSError:
        return pydicom.Dataset() if path.suffix.lower() in (*DICOM, "") else None
    except Exception:  # pydicom raises whatever the damage leads to; the reader will say what is wrong
        return pydicom.Dataset()


def _frames(header: pydicom.Dataset) -> int:
    try:
        return int(header.get("NumberOfFrames") or 1)
    except Exception:  # pydicom raises whatever the damage leads to; the reader will say what is wrong
        return 1


def _lines(path: pathlib.Path, reading: Reading) -> tuple[list[Item], list[Rejected]]:
    """The reports of a text, one a line, in any encoding that tables may have."""
    items, rejected = [], []
    for number, line in enumerate(table.decoded(path.read_bytes(), path).splitlines(), 1):
        if table.is_damaged(line):
            rejected.append(Rejected(number, str(number), "bad_encoding: bytes that are not UTF-8, in a text that is"))
        elif not text.is_empty(report := reading.caption(line)):
            items.append(Item(str(number), "report", report=report))
    return items, rejected


def _manifest(path: pathlib.Path, reading: Reading) -> tuple[list[Item], list[Rejected]]:
    source, one_at_a_time = manifest.read_pictures(path, reading), threading.Lock()

    def pixels(row: Any) -> np.ndarray:
        with one_at_a_time:  # it silences warnings, which Python does for all threads at once
            record = source.convert(row)
        if isinstance(record, Rejected):
            code, _, detail = record.reason.partition(": ")
            raise BadInput(code, detail)
        return record["image" if row.modality == "xray" else "volume"]

    def item(row: Any) -> Item:
        info, view = row.info, dict(row.info.columns).get("view", "")
        return Item(row.path, row.modality, functools.partial(pixels, row), info.report, info.file, view)

    return [item(row) for row in source.rows], list(source.rejected)
