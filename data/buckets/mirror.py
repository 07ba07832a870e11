"""A folder of this machine that stands for a place in a bucket, and the functions by which jobs get one.

An object is there whole or not at all, but a folder of objects is not: what says that a folder is complete, the
manifest.json of a checkpoint and the contract.json of a set, is sent last and removed first.
"""

import contextlib
import functools
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from data import contract
from data.buckets import cache
from data.buckets.lease import Lease
from data.buckets.store import Object, Store
from data.errors import UserError

LOG = logging.getLogger(__name__)
THREADS = 8  # objects on their way at a time
MARK = "manifest.json"
MARKS = (MARK, contract.FILE)
UNFINISHED = (".partial", ".old", ".fetching", ".manifest", ".exporting")  # how names of what is half made end
TEMPORARY = ".orbax-checkpoint-tmp"
HIDDEN = (".salt",)  # of files whose names begin with a dot these go into the bucket
_OPEN: list["Mirror"] = []  # of this process
_URLS: dict[str, str] = {}  # of every path that this process has had for one


class Mirror:
    """`path` on this machine for `url`. With `only`, names below it, the rest is neither fetched nor removed.

    `pull` makes the folder what the bucket holds, `push` the bucket what the folder holds.
    """

    def __init__(self, url: str, entry: cache.Entry, only: Sequence[str] = ()) -> None:
        self.url, self._entry = url.rstrip("/"), entry
        self.store = Store(self.url)
        self._above, name = posixpath.split(self.store.path)
        self.path = entry.path / name
        self._roots = [f"{name}/{one}" for one in only] or [name]
        _URLS[str(self.path)] = self.url
        self.active = True  # of several hosts one alone sends
        self.lease: Lease | None = None  # of a run, without which nothing is sent
        _OPEN.append(self)

    def pull(self) -> None:
        """Fetches what is new or changed in the bucket, and removes here what is not there."""
        for _ in range(3):
            try:
                self._pull(self._listed())
                return
            except FileNotFoundError:
                continue  # removed since it was listed: a run is writing there
        raise UserError(f"{self.url} changes while it is read: try again, or name a run that has ended")

    def is_current(self) -> bool:
        """Whether the folder is what the bucket holds."""
        listed = self._listed()
        return not self._outdated(listed) and not self._superfluous(listed)

    def push(self) -> None:
        """Sends what is new or changed here, marks last; then removes there what was sent and has gone here."""
        if not self.active:
            return
        if self.lease is not None:
            self.lease.check()
        index, here = self._entry.index, self._here()
        stamps = {name: cache.stamp(self._local(name)) for name in here}
        changed = [name for name in here if index.get(name, [])[:2] != stamps[name]]
        gone = [name for name in index if name not in here]
        self._each(self._send, changed, marks_first=False)
        if changed:
            listed = self._listed(changed)
            index |= {name: [*stamps[name], listed[name].tag] for name in changed if name in listed}
            self._entry.save()
        self._each(self._remove, gone, marks_first=True)
        for name in gone:
            del index[name]
        self._entry.save()

    def close(self) -> None:
        """Gives the folder up: others may write or remove it."""
        _OPEN.remove(self)
        self._entry.close()

    def _pull(self, listed: Mapping[str, Object]) -> None:
        index = self._entry.index
        for name in self._superfluous(listed):
            self._local(name).unlink()
        for name in [name for name in index if not self._may_remain(name, listed)]:
            del index[name]
        outdated = self._outdated(listed)
        size = sum(listed[name].size for name in outdated)
        if size:
            cache.make_room(size, self.url)
        if size > 1e8:
            LOG.info("%s: %.1f GB are fetched into %s", self.url, size / 1e9, self._entry.path)
        self._each(functools.partial(self._fetch, listed), outdated, marks_first=False)
        index |= {name: [*cache.stamp(self._local(name)), listed[name].tag] for name in outdated}
        self._entry.save()

    def _outdated(self, listed: Mapping[str, Object]) -> list[str]:
        index = self._entry.index

        def same(name: str) -> bool:
            path = self._local(name)
            return path.is_file() and index.get(name) == [*cache.stamp(path), listed[name].tag]

        return [name for name in listed if not same(name)]

    def _listed(self, names: Iterable[str] = ()) -> dict[str, Object]:
        """Objects by their names below what is above the mirror."""
        roots = {name.partition("/")[0] if name in names else name for name in (*self._roots, *names)}
        objects: dict[str, Object] = {}
        for root in [one for one in roots if not any(one != other and _is_below(one, other) for other in roots)]:
            objects |= self.store.list(posixpath.join(self._above, root))
        start = len(self._above) + 1 if self._above else 0
        named = {key[start:]: value for key, value in objects.items()}
        for name in named:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise UserError(f"{self.url} has an object whose name is no path on a disk: {name[:200]!r}")
        return {name: value for name, value in named.items() if not _is_left_out(name)}

    def _here(self) -> list[str]:
        files = (path for path in self._entry.path.rglob("*") if path.is_file() and not path.is_symlink())
        names = (path.relative_to(self._entry.path).as_posix() for path in files)
        return sorted(name for name in names if not _is_left_out(name))

    def _superfluous(self, listed: Mapping[str, Object]) -> list[str]:
        """Files here that the bucket does not have.

        Of a set that it has never had whole, such as a phantom that was built here, or one of which a part was sent,
        all files may stay.
        """
        known = {*listed, *self._entry.index}
        own = [root for root in self._roots if "/" not in root or f"{root}/{contract.FILE}" in known]
        return [name for name in self._here() if name not in listed and any(_is_below(name, root) for root in own)]

    def _may_remain(self, name: str, listed: Mapping[str, Object]) -> bool:
        """Whether what is known of a file is still true of here and of the bucket.

        One that has gone here, such as another set's from a cache that was emptied, nobody has removed on purpose: it
        must not count as removed when the folder is sent.
        """
        in_bucket = name in listed or not any(_is_below(name, root) for root in self._roots)
        return in_bucket and self._local(name).is_file()

    def _local(self, name: str) -> Path:
        return self._entry.path / name

    def _fetch(self, listed: Mapping[str, Object], name: str) -> None:
        path = self._local(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.fetching")
        self.store.get(posixpath.join(self._above, name), partial, listed[name])
        partial.replace(path)

    def _send(self, name: str) -> None:
        try:
            self.store.put(self._local(name), posixpath.join(self._above, name))
        except FileNotFoundError:
            return  # removed meanwhile

    def _remove(self, name: str) -> None:
        self.store.remove(posixpath.join(self._above, name))

    def _each(self, act: Any, names: Sequence[str], *, marks_first: bool) -> None:
        marks = [name for name in names if PurePosixPath(name).name in MARKS]
        others = [name for name in names if name not in set(marks)]
        for part in (marks, others) if marks_first else (others, marks):
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(act, part))


def fetch(url: str, only: Sequence[str] = ()) -> Path:
    """The path of what a URL holds, fetched into the cache unless it is there; `only` so much below it.

    Raises:
        UserError: there is nothing, no room, no right, or no way.
    """
    for entry, alone in cache.entries(url, "r"):
        with _opened(url, entry, only) as mirror:
            if alone:
                mirror.pull()
                entry.share()
            current = alone or mirror.is_current()
            if current and not only and not mirror.path.exists():
                raise UserError(f"there is nothing at {url}")
            if current:
                return mirror.path
        mirror.close()
    raise AssertionError("entries never end")


def written(url: str, only: Sequence[str] = ()) -> Mirror:
    """A folder for what is to be written, with what is there already."""
    entry, _ = next(cache.entries(url, "w"))
    with _opened(url, entry, only) as mirror:
        mirror.pull()
    return mirror


@contextlib.contextmanager
def _opened(url: str, entry: cache.Entry, only: Sequence[str]) -> Iterator[Mirror]:
    """A mirror that stays open unless the body raises."""
    try:
        mirror = Mirror(url, entry, only)
    except UserError:
        entry.close()
        raise
    try:
        yield mirror
    except BaseException:
        mirror.close()
        raise


def close_all() -> None:
    """Gives up every folder that this process has opened."""
    while _OPEN:
        _OPEN[-1].close()


def of(path: Path) -> Mirror | None:
    """The mirror that a path of this process lies in; None on a disk of one's own."""
    return next((mirror for mirror in reversed(_OPEN) if path.is_relative_to(mirror.path)), None)


def named(value: Any) -> Any:
    """Settings, or a text, in which the paths of mirrors are the URLs again that they stand for."""
    if isinstance(value, Mapping):
        return {key: named(part) for key, part in value.items()}
    if isinstance(value, str):
        for path, url in _URLS.items():
            value = url.join(re.split(rf"{re.escape(path)}(?![\w-])", value))
    return value


def _is_below(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}/")


def _is_left_out(name: str) -> bool:
    parts = name.split("/")
    return any(
        part.endswith(UNFINISHED) or TEMPORARY in part or (part.startswith(".") and part not in HIDDEN)
        for part in parts
    )
