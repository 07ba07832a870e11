"""Pseudonyms: salted hashes of names, and the file that holds the salt."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from data.errors import UserError

SALT = ".salt"


def pseudonym(name: str, salt: str) -> str:
    """Replaces a name in a set: 16 hex digits that nobody can trace back without the salt."""
    return hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]


def salt_of(data_dir: Path) -> str:
    """The secret of a folder of sets, made on first use: `<data_dir>/.salt`, readable by its owner alone.

    The same patient has the same pseudonym in all sets of the folder. Do not pass this file on with a set.
    """
    path = data_dir / SALT
    if not path.exists():
        aside = data_dir / f"{SALT}.{os.getpid()}"
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(secrets.token_hex(16) + "\n")
        with contextlib.suppress(FileExistsError):  # another build was first: its salt stays
            os.link(aside, path)
        aside.unlink()
    salt = path.read_text(encoding="ascii").strip()
    if len(salt) < 16:
        raise UserError(f"{path} holds no salt of at least 16 characters: give config.salt, or remove the file")
    return salt
