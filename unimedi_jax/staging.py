"""Settings that name a bucket: what they stand for is fetched before a job begins, what it wrote is sent at its end.

Below this, jobs know folders alone; training sends its own at every checkpoint, too (`checkpoint.py`).
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from data.buckets import mirror
from data.buckets.store import Store, is_url
from data.errors import UserError
from unimedi_jax.config import paths
from unimedi_jax.config.paths import DATA, READ, WRITTEN

SETS_OF_ITS_OWN = ("build", "claims")  # jobs that write into data_dir


@contextlib.contextmanager
def staged(config: Any, workdir: pathlib.Path | str) -> Iterator[pathlib.Path]:
    """The workdir on this machine while a job runs on `config`, whose addresses in buckets have become paths.

    Raises:
        UserError: an address that this job does not read or write, or what `data.buckets` says of it.
    """
    mirrors: list[mirror.Mirror] = []

    def write(url: str, *only: str) -> str:
        mirrors.append(mirror.written(url, only))
        return str(mirrors[-1].path)

    def send() -> None:
        for one in mirrors:
            one.push()

    try:
        _stage(config, write)
        if is_url(str(workdir)):
            workdir = write(str(workdir))
        try:
            yield pathlib.Path(workdir)
        except BaseException:
            with contextlib.suppress(UserError):  # the first error is the one to show
                send()
            raise
        send()
    finally:
        mirror.close_all()


def _stage(config: Any, write: Callable[..., str]) -> None:
    for key in READ:
        if is_url(_get(config, key)):
            _set(config, key, _fetched(_get(config, key), config))
    for key in WRITTEN:
        if is_url(_get(config, key)):
            _set(config, key, write(_get(config, key)))
    if is_url(url := _get(config, DATA)):
        own = config.job in SETS_OF_ITS_OWN
        config.data_dir = write(url, *_sets(config), ".salt") if own else str(mirror.fetch(url, _sets(config)))


def _fetched(text: str, config: Any) -> str:
    place, which = paths.checkpoint(text)
    if config.job == "build" and pathlib.PurePosixPath(place).suffix == ".csv":
        return _with_its_rows(place)
    return ":".join(filter(None, (str(mirror.fetch(place)), which)))


def _with_its_rows(url: str) -> str:
    """A manifest and the files beside it: its paths are relative to it."""
    folder, _, name = url.rpartition("/")
    return str(mirror.fetch(folder) / name)


def _sets(config: Any) -> tuple[str, ...]:
    """The sets of a job in its data_dir; of all of them where it names none."""
    if config.job == "build":
        return (config.name,)
    names = tuple(filter(None, (part.partition(":")[0].strip() for part in _get(config, "data").split(","))))
    if names or config.job == "claims":
        return names
    store = Store(config.data_dir)
    listed = (name.removeprefix(f"{store.path}/").split("/") for name in store.list(store.path))
    built = sorted({parts[0] for parts in listed if parts[1:] == ["contract.json"]})
    return tuple(built or ["phantom"])  # the one that is built where there is none


def _get(config: Any, key: str) -> str:
    """A setting that is text; "" where the job has none of that name."""
    for part in key.split("."):
        config = config.get(part, "") if hasattr(config, "get") else ""
    return config if isinstance(config, str) else ""


def _set(config: Any, key: str, value: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    config[name] = value
