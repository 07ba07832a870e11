"""Source -> built set: the folder that training reads (DESIGN: records, tokenizer, preprocessing contract, ledger)."""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tqdm
from absl import logging

from data import films, geometry, pool, text, volumes, writer
from data.census import Census
from data.source import MODALITIES, SPLITS, Example, Rejected, Source
from unimedi_jax import errors
from unimedi_jax.input import tokenizer

CONTRACT, LEDGER = "contract.json", "rejected.jsonl"
CONTRACT_FORMAT = 1  # grows when a change of this code changes what a record holds
PIXEL_LIBRARIES = (
    "numpy", "scipy", "opencv-python-headless", "pillow", "nibabel", "pydicom", "pylibjpeg",
    "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "simpleitk",
)  # fmt: skip
LOG_EVERY_SECONDS = 30
SHARD_BYTES = 256 * 2**20
SHARD_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Built:
    """The outcome of `build`. `made` is False where the set was there already, or was not wanted (dry run)."""

    folder: Path
    made: bool
    counts: dict[str, dict[str, int]]
    rejected: tuple[Rejected, ...]
    leaked: int


def build(
    source: Source,
    *,
    data_dir: Path,
    name: str,
    strict: bool = False,
    dry_run: bool = False,
    workers: int = 0,
) -> Built:
    """Converts a source and writes `<data_dir>/<name>/`, whole or not at all; the same source gives the same bytes.

    With `dry_run` every row is converted and nothing is written. With `strict` one rejected row is enough to make
    no set: the ledger alone is then written, to `<data_dir>/<name>.rejected.jsonl`.
    Raises UserError for a name taken by another source, for no training row, and for `strict`.
    """
    _check_name(name)
    folder = data_dir / name
    if dry_run:
        census = _examine(source, workers)
        return Built(folder, False, census.counts(), census.in_order(), census.leaked())
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"config.data_dir {data_dir} cannot be made: {error.strerror}") from error
    with _alone_in(data_dir):
        known = _built_before(folder, _fingerprint(source))
        if known is not None:
            return known
        staging = data_dir / f".{name}.building"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            census = _write(source, staging, name=name, workers=workers)
            rejected = census.in_order()
            if strict and rejected:
                ledger = data_dir / f"{name}.{LEDGER}"
                _write_ledger(ledger, rejected)
                raise errors.UserError(
                    f"{len(rejected)} of {census.total() + len(rejected)} rows were rejected and config.strict is set: "
                    f"no set was made; see {ledger}"
                )
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Built(folder, True, census.counts(), rejected, census.leaked())


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise errors.UserError(f"config.name is '{name}': use letters, digits, '_', '-' and '.', not '.' first")


@contextlib.contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Waits for other builds in the same folder; the system lifts the lock however the process ends."""
    handle = os.open(data_dir, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network drives may know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _built_before(folder: Path, fingerprint: str) -> Built | None:
    if not folder.exists():
        return None
    try:
        contract = json.loads((folder / CONTRACT).read_text(encoding="utf-8"))
        lines = (folder / LEDGER).read_text(encoding="utf-8").splitlines()
        rejected = tuple(Rejected(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError):
        raise errors.UserError(
            f"{folder} exists and is no built set: choose another config.name or remove the folder"
        ) from None
    if contract.get("source_fingerprint") != fingerprint:
        raise errors.UserError(
            f"{folder} was built from another source, or from files that have changed since: "
            "choose another config.name or remove the folder"
        )
    return Built(folder, False, contract["splits"], rejected, contract["pictures_in_two_splits"])


def _fingerprint(source: Source) -> str:
    """What tells one source from another without reading its pixels: rows, labels, and the code's version."""
    facts = (CONTRACT_FORMAT, source.labels, source.prompts, source.contract, sorted(source.truth))
    digest = hashlib.sha256(repr(facts).encode())
    for row in (*source.rows, *source.rejected):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _examine(source: Source, workers: int) -> Census:
    census = Census(list(source.rejected))
    with pool.opened(source, workers) as convert, _progress(len(source.rows)) as tick:
        for _ in _accepted(convert(source.rows), census, tick):
            pass
    return census


def _write(source: Source, staging: Path, *, name: str, workers: int) -> Census:
    """Writes the whole set into `staging`."""
    census = Census(list(source.rejected))
    with pool.opened(source, workers) as convert, _progress(len(source.rows)) as tick:
        for modality in MODALITIES:
            streams = {}
            for split in SPLITS:
                rows = [row for row in source.rows if (row.modality, row.split) == (modality, split)]
                stream = _accepted(convert(rows), census, tick)
                # A split must be declared before it is written, and may turn out empty.
                first = list(itertools.islice(stream, 1))
                if first:
                    streams[split] = itertools.chain(first, stream)
            if streams:
                writer.write(staging, modality, writer.features(source, modality), streams)
    if not any(census.accepted[modality, "train"] for modality in MODALITIES):
        raise errors.UserError(f"no row is left to train on, so no set was made. {_why_not(census)}")
    tokenizer.save(tokenizer.train(census.reports), staging / "tokenizer")
    _write_ledger(staging / LEDGER, census.in_order())
    contract = _contract(source, census, name=name, staging=staging)
    (staging / CONTRACT).write_text(json.dumps(contract, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return census


def _accepted(
    converted: Iterable[pool.Converted], census: Census, tick: Callable[[], None]
) -> Iterator[tuple[str, Example]]:
    """The examples among the results, with their keys; the census takes note of all."""
    for row, result in converted:
        tick()
        if isinstance(result, Rejected):
            census.rejected.append(result)
        else:
            census.add(row, result)
            yield row.key, result


def _contract(source: Source, census: Census, *, name: str, staging: Path) -> dict[str, Any]:
    """The preprocessing contract: everything that shaped the numbers, and the hash of what came out."""
    vocabulary = (staging / "tokenizer" / "tokenizer.json").read_bytes()
    return {
        "format": CONTRACT_FORMAT,
        "name": name,
        "labels": list(source.labels),
        "prompts": source.prompts,
        "truth": sorted(source.truth),
        "splits": census.counts(),
        "records": {
            "xray": {
                "image": [geometry.FILM_SIZE] * 2,
                "dtype": "uint8",
                "axes": "y x",
                "rules": films.RULES,
            },
            "ct": {
                "volume": list(geometry.VOLUME_SHAPE),
                "dtype": "int16",
                "axes": "z y x, growing to Superior, Posterior, Left",
                "hu": [geometry.AIR_HU, geometry.HIGHEST_HU],
                "rules": volumes.RULES,
            },
            "labels": "1 present, 0 absent, NaN unknown",
            "lesion_mask": "0 none, 1 + index of the label, 254 something of unstated kind, 255 not annotated",
            "organ_mask": "0 none, 1 right lung, 2 left lung, 3 heart",
            "report": text.RULE,
        },
        "source": source.contract,
        "tokenizer": {"sha256": hashlib.sha256(vocabulary).hexdigest()},
        "libraries": {library: _version(library) for library in PIXEL_LIBRARIES},
        "pictures_in_two_splits": census.leaked(),
        "rejected": len(census.rejected),
        "source_fingerprint": _fingerprint(source),
        "content_sha256": census.content_hash(),
    }


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # OpenCV has four names
        return "absent"


def _write_ledger(path: Path, rejected: Iterable[Rejected]) -> None:
    lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in rejected]
    path.write_text("".join(lines), encoding="utf-8")


def _why_not(census: Census) -> str:
    """The commonest reasons, in one line."""
    codes = collections.Counter(one.reason.partition(":")[0] for one in census.rejected)
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common(5)) or "the source is empty"
    return f"Accepted for val and test: {census.total()}; rejected: {reasons}. config.dry_run=True lists the rows"


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar with the time left on a terminal, a log line now and then elsewhere."""
    if sys.stderr.isatty():
        with tqdm.tqdm(total=total, unit="row", smoothing=0.1) as bar:
            yield lambda: bar.update() and None
        return
    done, last = itertools.count(1), [time.monotonic()]

    def tick() -> None:
        number = next(done)
        if time.monotonic() - last[0] > LOG_EVERY_SECONDS:
            last[0] = time.monotonic()
            logging.info("converted %d of %d rows", number, total)

    yield tick
