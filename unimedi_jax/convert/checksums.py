"""SHA256SUMS of a folder, in the format of `sha256sum -c`: whether its files are those that were written."""

import hashlib
import pathlib
from collections.abc import Iterable

from data.errors import UserError

FILE = "SHA256SUMS"


def write(folder: pathlib.Path) -> None:
    """Lists every file of a folder, but for the list."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def check(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> None:
    """Holds files of a folder against its list, if it has one; those that it does not name, it says nothing about.

    Raises:
        UserError: a file that is not what was written.
    """
    if not (folder / FILE).is_file():
        return
    lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    known = {name: listed for listed, _, name in (line.partition("  ") for line in lines)}
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name in known and known[name] != digest(path):
            raise UserError(
                f"{path} is damaged or was changed: it differs from {FILE} beside it. Copy or fetch it again, or "
                f"remove {FILE} if you changed it yourself"
            )


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
