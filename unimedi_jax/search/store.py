"""An index on the disk: arrays that are mapped into memory beside a line of JSON for each case.

    <index>/index.json          what it holds, which network made it, the hash of every file; replaced last
    <index>/<part>/cases.jsonl  id, patient, modality, split and, where it was asked for, the report of each case
    <index>/<part>/z.npy        (n, e) float32 unit vectors of pictures; NaN where a case has none
    <index>/<part>/z_report.npy (n, e) the same of reports
    <index>/<part>/labels.npy   (n, c) int8: 1, 0, -1 unknown
    <index>/<part>/pictures.npy (n, s, s) uint8: small pictures

It may come from a stranger: sizes, shapes and hashes are checked, nothing is unpickled. A change writes a new part and
then index.json; parts that it does not name are removed.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int8, UInt8

from data import json_files, pages
from data.errors import UserError
from unimedi_jax.config.jobs import LARGEST_PICTURE
from unimedi_jax.search import cases

FORMAT = 1
FACTS, CASES = "index.json", "cases.jsonl"
ADVICE = "bring back a copy of the index, or remove the folder and build it again"
ARRAYS = {"z": np.float32, "z_report": np.float32, "labels": np.int8, "pictures": np.uint8}
NEEDED = {"format": int, "part": str, "rows": int, "width": int, "labels": list, "picture_size": int, "files": dict}
NEEDED |= {"identity": str, "network": str, "has_reports": bool}
PART = re.compile("[0-9a-f]{16}")
GRAPH = re.compile(r"graph_(z|z_report)\.(rows|levels|neighbors)\.npy")
MOST_LABELS, MOST_WIDTH = 10_000, 1 << 16
BLOCK = 1 << 16  # rows that are copied at a time


@dataclasses.dataclass(frozen=True)
class Index:
    """An opened index. Row i of every array is case i."""

    folder: pathlib.Path
    facts: dict[str, Any]
    z: Float[np.ndarray, "n e"]
    z_report: Float[np.ndarray, "n e"]
    labels: Int8[np.ndarray, "n c"]
    pictures: UInt8[np.ndarray, "n s s"]
    columns: dict[str, np.ndarray]  # "id", "patient", "modality", "split" (n,) text; "start" (n,) bytes into CASES
    graphs: dict[str, np.ndarray]  # of `graph.py`, by the names of their files
    computed: dict[Any, Any] = dataclasses.field(default_factory=dict)  # of `once`

    def __len__(self) -> int:
        return self.facts["rows"]

    @property
    def part(self) -> pathlib.Path:
        """The folder of the files that index.json names."""
        return self.folder / self.facts["part"]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, computed once for an opened index: graphs in memory, what filters let pass."""
        if key not in self.computed:
            self.computed[key] = make()
        return self.computed[key]

    def report(self, row: int) -> str:
        """The report of a case; "" where the index holds none."""
        if not self.facts["has_reports"]:
            return ""
        with (self.part / CASES).open("rb") as stream:
            stream.seek(int(self.columns["start"][row]))
            return cases.read_line(stream.readline(cases.LONGEST_LINE)).report


def read(folder: pathlib.Path) -> Index:
    """Opens an index. Every file is read once to check its hash; vectors stay on the disk until they are searched.

    Raises:
        UserError: there is none, it is damaged, or of another version.
    """
    if not (folder / FACTS).is_file():
        raise UserError(f"no index in {folder}: build one, with config.data or config.source")
    facts = json_files.read_object(folder / FACTS, ADVICE, 1 << 22)
    if problem := _flaw(facts):
        raise UserError(f"{folder / FACTS} is no index of this project ({problem}): {ADVICE}")
    part = folder / facts["part"]
    for name, digest in facts["files"].items():
        if _sha256(part / name) != digest:
            raise UserError(f"{part / name} is not the file that {FACTS} names, its hash differs: {ADVICE}")
    shapes = _shapes(facts)
    arrays = {name: _array(part / f"{name}.npy", dtype, shapes[name]) for name, dtype in ARRAYS.items()}
    graphs = {name: _array(part / name) for name in facts["files"] if GRAPH.fullmatch(name)}
    try:
        columns = cases.columns(part / CASES)
    except ValueError as error:
        raise UserError(f"{part / CASES} is damaged, {error}: {ADVICE}") from error
    if len(columns["id"]) != facts["rows"]:
        raise UserError(f"{part / CASES} has {len(columns['id'])} cases, {FACTS} says {facts['rows']}: {ADVICE}")
    return Index(folder, facts, **arrays, columns=columns, graphs=graphs)


def stamp(folder: pathlib.Path) -> tuple[int, int]:
    """Changes whenever the index does. Raises UserError where it is gone."""
    try:
        status = (folder / FACTS).stat()
    except OSError as error:
        raise UserError(f"the index in {folder} is gone ({error.strerror}): {ADVICE}") from error
    return status.st_ino, status.st_mtime_ns


def allocate(part: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a new part, mapped: those of an earlier start as they are, else new ones."""
    part.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for (name, dtype), shape in zip(ARRAYS.items(), _shapes(facts).values(), strict=True):
        path = part / f"{name}.npy"
        if not path.exists():
            partial = part / f"{name}.partial"
            partial.unlink(missing_ok=True)
            with partial.open("wb") as stream:
                _write_header(stream, shape, dtype)
            partial.replace(path)
        arrays[name] = np.lib.format.open_memmap(path, mode="r+") if 0 not in shape else np.zeros(shape, dtype)
    return arrays


def shorten(part: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Cuts the arrays of a part to the rows that `facts` names; their headers have room for any number."""
    for (name, dtype), shape in zip(ARRAYS.items(), _shapes(facts).values(), strict=True):
        with (part / f"{name}.npy").open("r+b") as stream:
            _write_header(stream, shape, dtype)


def _write_header(stream: BinaryIO, shape: Sequence[int], dtype: Any) -> None:
    """The header of a .npy at the beginning of a file, which becomes as long as its array."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.truncate(stream.tell() + math.prod(shape) * np.dtype(dtype).itemsize)


def publish(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Makes a finished part the index, and removes every other."""
    part = folder / facts["part"]
    files = {path.name: _sha256(path) for path in sorted(part.iterdir())}
    pages.write(folder / FACTS, json.dumps({**facts, "format": FORMAT, "files": files}, indent=1) + "\n")
    sweep(folder)


def sweep(folder: pathlib.Path) -> None:
    """Removes parts that index.json does not name: of a deletion or a build that was interrupted."""
    current = json_files.read_object(folder / FACTS, ADVICE)["part"]
    for path in folder.iterdir():
        if path.is_dir() and PART.fullmatch(path.name) and path.name != current:
            shutil.rmtree(path)


def rewrite(index: Index, keep: np.ndarray) -> None:
    """Writes the index anew with the cases of `keep` (n,) bool alone and without graphs, and removes the old one."""
    part = secrets.token_hex(8)
    rows = np.flatnonzero(keep)
    facts = {**index.facts, "part": part, "rows": len(rows)}
    arrays = allocate(index.folder / part, facts)
    for name, target in arrays.items():
        source = getattr(index, name)
        for start in range(0, len(rows), BLOCK):
            target[start : start + BLOCK] = source[rows[start : start + BLOCK]]
        if isinstance(target, np.memmap):
            target.flush()
    with (index.part / CASES).open("rb") as old, (index.folder / part / CASES).open("wb") as new:
        new.writelines(line for line, stays in zip(old, keep, strict=True) if stays)
    publish(index.folder, facts)


def _shapes(facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    n, width, size = facts["rows"], facts["width"], facts["picture_size"]
    return {"z": (n, width), "z_report": (n, width), "labels": (n, len(facts["labels"])), "pictures": (n, size, size)}


def _flaw(facts: Mapping[str, Any]) -> str:
    if wrong := [name for name, kind in NEEDED.items() if type(facts.get(name)) is not kind]:
        return f"{wrong[0]} is missing or of another kind"
    if facts["format"] != FORMAT:
        return f"its format is {str(facts['format'])[:20]}, this code reads {FORMAT}"
    sizes = {"width": MOST_WIDTH, "picture_size": LARGEST_PICTURE, "rows": 1 << 40}
    if wrong := [name for name, most in sizes.items() if not 0 <= facts[name] <= most]:
        return f"{wrong[0]} is {facts[wrong[0]]}"
    if len(facts["labels"]) > MOST_LABELS or not all(isinstance(name, str) for name in facts["labels"]):
        return "its labels are no names"
    names = {f"{name}.npy" for name in ARRAYS} | {CASES}
    others = [name for name in facts["files"] if name not in names and not GRAPH.fullmatch(name)]
    if not PART.fullmatch(facts["part"]) or not names <= facts["files"].keys() or others:
        return "it names other files"
    return ""


def _array(path: pathlib.Path, dtype: Any = None, shape: Sequence[int] | None = None) -> np.ndarray:
    """An array of a file, mapped. Raises UserError for another dtype or shape; without `dtype` a list of integers."""
    if shape is not None and 0 in shape:  # NumPy maps no array without elements
        return np.zeros(shape, dtype)
    try:
        return _checked(np.asarray(np.lib.format.open_memmap(path, mode="r")), dtype, shape)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged, it does not hold the array that {FACTS} describes: {ADVICE}") from error


def _checked(array: np.ndarray, dtype: Any, shape: Sequence[int] | None) -> np.ndarray:
    same = (
        array.dtype == dtype and array.shape == tuple(shape) if dtype else array.dtype.kind == "i" and array.ndim == 1
    )
    if not same:
        raise ValueError("another dtype or shape")
    return array


def _sha256(path: pathlib.Path) -> str:
    try:
        root = pathlib.Path(os.path.realpath(path.parent.parent, strict=True))
        target = os.path.realpath(path, strict=True)  # `resolve` raises a RuntimeError for a loop before Python 3.13
        if target != str(root / path.parent.name / path.name) or not path.is_file():
            raise UserError(f"{path} is a link, or no file: {ADVICE}")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {ADVICE}") from error
