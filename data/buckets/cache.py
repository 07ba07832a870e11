"""The folder in which what was fetched lies: bounded in size, one entry a URL and user, the longest unused gives way.

<cache>/<hash of the URL>/r0/, r0.json, r0.lock     what is read; several processes share it
<cache>/<hash of the URL>/w0/, w0.json, w0.lock     what one process writes
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data.errors import UserError

FOLDER, GIGABYTES = "~/.cache/unimedi_jax/buckets", 500.0
SPARE = 2**30  # bytes of the disk that stay free


def folder() -> Path:
    """The variable UNIMEDI_CACHE, by default FOLDER."""
    return Path(os.environ.get("UNIMEDI_CACHE") or FOLDER).expanduser().absolute()


def limit() -> float:
    """Bytes: the variable UNIMEDI_CACHE_GB, by default GIGABYTES."""
    text = os.environ.get("UNIMEDI_CACHE_GB") or str(GIGABYTES)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise UserError(f"UNIMEDI_CACHE_GB={text} is no number above 0")
    return gigabytes * 1e9


class Entry:
    """One folder of the cache, locked by this process, and what was last known of its files."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path, self._lock = path, lock
        self.index: dict[str, list[Any]] = _read(_index(path))  # name: size, mtime_ns and the tag in the bucket

    def save(self) -> None:
        """Writes the index."""
        index = _index(self.path)
        partial = index.with_suffix(".partial")
        partial.write_text(json.dumps(self.index), encoding="utf-8")
        partial.replace(index)

    def share(self) -> None:
        """Others may use it from here on, to read; nobody may remove it."""
        _flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Gives it up."""
        self._lock.close()


def stamp(path: Path) -> list[int]:
    """Size and time of a file: of one that was not touched they are as before."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def entries(url: str, kind: str) -> Iterator[tuple[Entry, bool]]:
    """The entries for a URL, one after the other, and whether this process has each alone; to be closed if unused.

    `kind`: "r" to be read, which waits for one who is fetching just now, or "w".
    """
    base = folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    for number in itertools.count():
        path = base / f"{kind}{number}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f"{path.name}.lock").open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): name another folder for what comes from buckets in the "
                "variable UNIMEDI_CACHE"
            ) from error
        alone = _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not alone and kind == "w":
            lock.close()
            continue
        if not alone:
            _flock(lock, fcntl.LOCK_SH)
        yield Entry(path, lock), alone


def make_room(need: int, url: str) -> None:
    """Removes the longest unused entries until `need` more bytes fit.

    Raises:
        UserError: they never do.
    """
    root, most = folder(), limit()
    remedy = "raise it, or mount the bucket (gcsfuse, mount-s3) and give the folder's path"
    if need > most:
        raise UserError(f"{url} has {need / 1e9:.1f} GB, above UNIMEDI_CACHE_GB={most / 1e9:g}: {remedy}")
    known = sorted(root.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(size for size, *_ in _read(path).values()) for path in known}
    for index in known:
        if sum(sizes.values()) + need <= most and shutil.disk_usage(root).free >= need + SPARE:
            return
        if _removed(index):
            sizes.pop(index)
    if sum(sizes.values()) + need > most:
        raise UserError(f"{url} has {need / 1e9:.1f} GB, and UNIMEDI_CACHE_GB={most / 1e9:g} is in use: {remedy}")
    if shutil.disk_usage(root).free < need + SPARE:
        raise UserError(f"{url} has {need / 1e9:.1f} GB, for which {root} has no room: name another in UNIMEDI_CACHE")


def _removed(index: Path) -> bool:
    path = index.with_suffix("")
    with path.with_name(f"{path.name}.lock").open("w", encoding="utf-8") as lock:
        if not _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        index.unlink(missing_ok=True)  # first: it must not name files that have gone
        shutil.rmtree(path, ignore_errors=True)
    return True


def _index(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(index: Path) -> dict[str, list[Any]]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(index.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(isinstance(one, list) and len(one) == 3 for one in content.values()):
            return content
    return {}  # everything is fetched anew


def _flock(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
