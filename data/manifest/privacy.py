"""Names that stand for names: salted hashes, and where the salt lives."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from data import errors

SALT = ".salt"


def pseudonym(name: str, salt: str) -> str:
    """Stands for a name in a set: 16 hex digits that nobody without the salt can tie to it."""
    return hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]


def salt_of(data_dir: Path) -> str:
    """The secret of a folder of sets, made the first time: `<data_dir>/.salt`, for the owner's eyes.

    The same patient has the same pseudonym in all its sets; whoever is given a set is not given this file.
    """
    path = data_dir / SALT
    if not path.exists():
        aside = data_dir / f"{SALT}.{os.getpid()}"
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(secrets.token_hex(16) + "\n")
        with contextlib.suppress(FileExistsError):  # another build was first: its salt stays
            os.link(aside, path)
        aside.unlink()
    found = path.read_text(encoding="ascii").strip()
    if len(found) < 16:
        raise errors.UserError(f"{path} holds no salt of at least 16 characters: give config.salt, or remove the file")
    return found
