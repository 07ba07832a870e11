"""Where a job's results will go, tried before the work is done and not after it."""

import contextlib
import os
import pathlib
import tempfile

from data.errors import UserError

LONGEST = 200  # bytes of a name, of the 255 that there are: ledgers and files in the making have longer ones


def check_file(path: pathlib.Path, setting: str) -> None:
    """Makes the folder of a file that is to be written. Raises UserError where it could not be."""
    if len(os.fsencode(path.name)) > LONGEST:
        raise UserError(f"{setting}: the name {path.name[:40]}... has more than {LONGEST} bytes: choose a shorter one")
    if path.is_dir():
        raise UserError(f"{setting} {path} is a folder: name a file")
    check_folder(path.parent, setting)


def check_folder(folder: pathlib.Path, setting: str) -> None:
    """Makes a folder that files are to be written to. Raises UserError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(tempfile.TemporaryFile(dir=folder)) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"{setting}: {folder} cannot be written to ({error.strerror}): make it writable, or name another"
        ) from error
