"""Pseudonyms: salted hashes of names, and the file that holds the salt."""

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from data.errors import UserError

SALT = ".salt"
SHORTEST = 16  # characters of a salt
PATIENCE = 10  # tenths of a second for another build to write one


def pseudonym(name: str, salt: str) -> str:
    """Replaces a name in a set: 16 hex digits that nobody can trace back without the salt."""
    return hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]


def salt_of(data_dir: Path) -> str:
    """The secret of a folder of sets, made on first use: `<data_dir>/.salt`, readable by its owner alone.

    The same patient has the same pseudonym in all sets of the folder. Do not pass this file on with a set.
    """
    path = data_dir / SALT
    if not path.exists():
        _create(path, secrets.token_hex(16) + "\n")
    for _ in range(PATIENCE):
        if len(salt := path.read_text(encoding="ascii").strip()) >= SHORTEST:
            return salt
        time.sleep(0.1)
    raise UserError(f"{path} holds no salt of at least {SHORTEST} characters: give config.salt, or remove the file")


def _create(path: Path, content: str) -> None:
    """Makes the file, whole or not at all; where another build was first, its salt stays.

    On a drive without hard links it is there for an instant before its content is, which `salt_of` waits for.
    """
    aside = path.with_name(f"{SALT}.{os.getpid()}")
    try:
        _write(aside, content, os.O_TRUNC)
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        except OSError:
            with contextlib.suppress(FileExistsError):
                _write(path, content, os.O_EXCL)
    finally:
        aside.unlink(missing_ok=True)


def _write(path: Path, content: str, how: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w") as stream:
        stream.write(content)
